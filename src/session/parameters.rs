//! Parameters that a server reports of itself (ParameterStatus), by name.
//!
//! Thousands of sessions are told the same values by a few connections: they share one map, and a number that
//! stands for its content tells whether a session knows it already. Must not know: which of them matter.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Deref;
use std::sync::Arc;

/// Values by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    values: Arc<BTreeMap<String, String>>,
    /// Of equal content: equal. 0: there are none.
    stamp: u64,
    /// What `standard_conforming_strings` says, which is asked with every text.
    has_escapes: bool,
}

impl Parameters {
    /// Takes one value over.
    pub fn insert(&mut self, name: &str, value: &str) {
        if self.values.get(name).is_some_and(|known| known == value) {
            return;
        }
        Arc::make_mut(&mut self.values).insert(name.to_owned(), value.to_owned());
        let mut hasher = DefaultHasher::new();
        self.values.hash(&mut hasher);
        self.stamp = hasher.finish().max(1);
        self.has_escapes = self.values.get("standard_conforming_strings").is_some_and(|value| value != "on");
    }

    /// A backslash in a plain string stands for itself.
    pub fn is_standard_conforming(&self) -> bool {
        !self.has_escapes
    }

    /// Names and values are the same, as far as 64 bits tell.
    pub fn is_same(&self, other: &Self) -> bool {
        self.stamp == other.stamp
    }

    /// Takes the other's values over; those that were new or changed are returned.
    pub fn follow(&mut self, other: &Self) -> Vec<(String, String)> {
        if self.is_same(other) {
            return Vec::new();
        }
        let is_news = |(name, value): &(&String, &String)| self.values.get(*name) != Some(*value);
        let news = other.values.iter().filter(is_news).map(|(name, value)| (name.clone(), value.clone()));
        let news: Vec<_> = news.collect();
        if self.values.keys().all(|name| other.values.contains_key(name)) {
            self.clone_from(other);
        } else {
            news.iter().for_each(|(name, value)| self.insert(name, value));
        }
        news
    }
}

impl Deref for Parameters {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.values
    }
}

impl FromIterator<(String, String)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(values: I) -> Self {
        let mut parameters = Self::default();
        values.into_iter().for_each(|(name, value)| parameters.insert(&name, &value));
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(&str, &str)]) -> Parameters {
        values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn equal_content_is_known_by_its_stamp_and_other_content_is_not() {
        let one = of(&[("a", "1"), ("b", "2")]);
        assert!(one.is_same(&of(&[("b", "2"), ("a", "1")])));
        assert!(!one.is_same(&of(&[("a", "2"), ("b", "1")])));
        assert!(!one.is_same(&Parameters::default()));
    }

    #[test]
    fn only_news_are_told_and_the_map_is_shared_then() {
        let server = of(&[("a", "1"), ("b", "2")]);
        let mut told = of(&[("a", "1"), ("b", "3")]);
        assert_eq!(told.follow(&server), [("b".to_owned(), "2".to_owned())]);
        assert!(Arc::ptr_eq(&told.values, &server.values));
        assert!(told.follow(&server).is_empty());
    }

    #[test]
    fn what_only_one_side_knows_stays() {
        let mut told = of(&[("own", "x")]);
        assert_eq!(told.follow(&of(&[("a", "1")])).len(), 1);
        assert_eq!(told.get("own").map(String::as_str), Some("x"));
        assert_eq!(told.get("a").map(String::as_str), Some("1"));
    }
}
