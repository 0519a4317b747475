//! How many files and sockets this process may have open.
//!
//! Systems start processes with a soft limit of about a thousand, which is less than the clients a
//! proxy takes; what they may raise it to by themselves is far more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit as far as the hard one allows, and gives the limit now in force.
pub fn raise_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return hard;
    }
    soft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise_limit(), hard);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
