//! What many sessions have alike: names of users and databases, settings of the startup packet. Ten thousand sessions
//! of a few applications hold it once, not each.
//!
//! Must not know: what sessions do with it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::session::Settings;

/// So many of each kind are remembered; who is not among them holds its own.
const REMEMBERED: usize = 16;

/// What was seen last.
#[derive(Default)]
pub(super) struct Alike {
    names: Mutex<Vec<Arc<str>>>,
    settings: Mutex<Vec<Settings>>,
}

impl Alike {
    /// The same name, held by all.
    pub(super) fn name(&self, name: &str) -> Arc<str> {
        let mut names = self.names.lock();
        if let Some(known) = names.iter().find(|known| ***known == *name) {
            return Arc::clone(known);
        }
        remember(&mut names, Arc::from(name))
    }

    /// The same settings, held by all.
    pub(super) fn settings(&self, settings: Settings) -> Settings {
        let mut remembered = self.settings.lock();
        match settings.alike(&remembered) {
            Some(known) => known,
            None => remember(&mut remembered, settings),
        }
    }
}

/// Who came first leaves first.
fn remember<T: Clone>(known: &mut Vec<T>, value: T) -> T {
    if known.len() >= REMEMBERED {
        known.remove(0);
    }
    known.push(value.clone());
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_one_and_few_are_remembered() {
        let alike = Alike::default();
        let first = alike.name("app");
        assert!(Arc::ptr_eq(&first, &alike.name("app")));
        for other in 0..100 {
            assert_eq!(*alike.name(&other.to_string()), *other.to_string());
        }
        assert_eq!(alike.names.lock().len(), REMEMBERED);
        assert_eq!(alike.name("app"), first);
    }
}
