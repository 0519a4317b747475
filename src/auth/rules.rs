//! Who has to prove what: an ordered list of rules, as in `pg_hba.conf`. The first that matches decides.
//!
//! # Source
//! <https://www.postgresql.org/docs/current/auth-pg-hba-conf.html>

// Addresses are values; nothing is connected here.
use core::net::IpAddr;

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// Unix-domain sockets.
    Local,
    /// TCP, encrypted or not.
    Host,
    /// TCP with TLS.
    HostSsl,
    /// TCP without TLS.
    HostNoSsl,
}

/// Databases or users that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Every one.
    pub all: bool,
    /// The database that is called as the user.
    pub same_user: bool,
    /// These.
    pub names: Vec<String>,
}

impl Names {
    /// Every one.
    pub fn all() -> Self {
        Self { all: true, same_user: false, names: Vec::new() }
    }

    fn has(&self, name: &str, user: &str) -> bool {
        self.all || (self.same_user && name == user) || self.names.iter().any(|known| known == name)
    }
}

/// Where clients come from that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRule {
    /// Anywhere.
    All,
    /// 127.0.0.0/8 and ::1.
    Loopback,
    /// Any address of this machine.
    SameHost,
    /// A network: the first bits of the address.
    Network {
        /// Address of the network.
        address: IpAddr,
        /// Bits that count.
        bits: u8,
    },
}

impl AddressRule {
    /// Reads `10.0.0.0/8`, `::1/128`, `192.168.0.7`, `all`, `loopback`, `samehost`.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "all" => return Ok(Self::All),
            "loopback" => return Ok(Self::Loopback),
            "samehost" => return Ok(Self::SameHost),
            "samenet" => return Err("samenet is not supported: write the network, like 10.0.0.0/8"),
            _ => {}
        }
        const HINT: &str = "write a network like 10.0.0.0/8 or ::1/128, or all, loopback or samehost";
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| HINT)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or(HINT)?,
            None => most,
        };
        let rule = Self::Network { address, bits };
        // PostgreSQL masks both sides; a network with more bits than it says is a slip.
        let is_exact = trailing_zeros(address) >= u32::from(most - bits);
        if is_exact {
            Ok(rule)
        } else {
            Err("the address has bits beyond its network: write 10.0.0.0/8, not 10.1.2.3/8")
        }
    }

    fn has(self, address: IpAddr, is_own: &dyn Fn(IpAddr) -> bool) -> bool {
        match self {
            Self::All => true,
            Self::Loopback => address.is_loopback(),
            Self::SameHost => address.is_loopback() || is_own(address),
            Self::Network { address: network, bits } => match (network, address) {
                (IpAddr::V4(network), IpAddr::V4(address)) => {
                    let differing = network.to_bits() ^ address.to_bits();
                    differing.leading_zeros() >= u32::from(bits)
                }
                (IpAddr::V6(network), IpAddr::V6(address)) => {
                    let differing = network.to_bits() ^ address.to_bits();
                    differing.leading_zeros() >= u32::from(bits)
                }
                _ => false,
            },
        }
    }
}

fn trailing_zeros(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits().trailing_zeros(),
        IpAddr::V6(address) => address.to_bits().trailing_zeros(),
    }
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// It need not.
    Trust,
    /// It is sent away.
    Reject,
    /// SCRAM-SHA-256, with channel binding when the client can.
    ScramSha256,
    /// md5, or SCRAM when the verifier is one for SCRAM.
    Md5,
    /// The password in clear text.
    Password,
    /// A TLS certificate whose common name is the user's.
    Certificate,
}

impl Method {
    /// Reads PostgreSQL's name of the method.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "trust" => Self::Trust,
            "reject" => Self::Reject,
            "scram-sha-256" => Self::ScramSha256,
            "md5" => Self::Md5,
            "password" => Self::Password,
            "cert" => Self::Certificate,
            _ => return None,
        })
    }

    /// PostgreSQL's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Reject => "reject",
            Self::ScramSha256 => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::Certificate => "cert",
        }
    }
}

/// What of a client's certificate is asked for beside the method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateCheck {
    /// An authority that is trusted has signed it.
    VerifyCa,
    /// And its common name is the user's.
    VerifyFull,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Kind of connection.
    pub kind: ConnectionKind,
    /// Databases.
    pub databases: Names,
    /// Users.
    pub users: Names,
    /// Addresses; of no meaning for [`ConnectionKind::Local`].
    pub address: AddressRule,
    /// What the client has to do.
    pub method: Method,
    /// What else.
    pub certificate: Option<CertificateCheck>,
    /// Name of the map from common names to users.
    pub map: Option<String>,
}

impl Rule {
    /// A rule for all databases, users and TCP connections from somewhere.
    pub fn host(address: AddressRule, method: Method) -> Self {
        Self {
            kind: ConnectionKind::Host,
            databases: Names::all(),
            users: Names::all(),
            address,
            method,
            certificate: None,
            map: None,
        }
    }

    /// A rule for all databases and users on Unix-domain sockets.
    pub fn local(method: Method) -> Self {
        Self { kind: ConnectionKind::Local, ..Self::host(AddressRule::All, method) }
    }

    fn matches(&self, peer: &Peer<'_>) -> bool {
        let kind_matches = match (self.kind, peer.address) {
            (ConnectionKind::Local, None) => return self.names_match(peer),
            (ConnectionKind::Local, Some(_)) | (_, None) => false,
            (ConnectionKind::Host, Some(_)) => true,
            (ConnectionKind::HostSsl, Some(_)) => peer.is_encrypted,
            (ConnectionKind::HostNoSsl, Some(_)) => !peer.is_encrypted,
        };
        kind_matches
            && self.names_match(peer)
            && peer.address.is_some_and(|address| self.address.has(address.to_canonical(), peer.is_own))
    }

    fn names_match(&self, peer: &Peer<'_>) -> bool {
        self.databases.has(peer.database, peer.user) && self.users.has(peer.user, peer.user)
    }
}

/// A client that wants in.
#[derive(Clone, Copy)]
pub struct Peer<'a> {
    /// Its address; none on a Unix-domain socket.
    pub address: Option<IpAddr>,
    /// It is on TLS.
    pub is_encrypted: bool,
    /// Database that it wants.
    pub database: &'a str,
    /// User that it wants to be.
    pub user: &'a str,
    /// Whether an address is one of this machine.
    pub is_own: &'a dyn Fn(IpAddr) -> bool,
}

/// Rules in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
}

impl Rules {
    /// Rules in their order.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// What holds where nothing is written: clients on this machine are trusted, nobody else comes in.
    pub fn trust_loopback() -> Self {
        Self::new(vec![Rule::local(Method::Trust), Rule::host(AddressRule::Loopback, Method::Trust)])
    }

    /// What holds where passwords are written, but no rules: everybody proves to know one.
    pub fn scram_everywhere() -> Self {
        Self::new(vec![Rule::local(Method::ScramSha256), Rule::host(AddressRule::All, Method::ScramSha256)])
    }

    /// The first that matches.
    pub fn find(&self, peer: &Peer<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(peer))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }
}

/// Which user a certificate's common name may be, by map; as `pg_ident.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentMap {
    entries: Vec<(String, String, String)>,
}

impl IdentMap {
    /// Entries of map, common name and user.
    pub fn new(entries: Vec<(String, String, String)>) -> Self {
        Self { entries }
    }

    /// Whether the bearer of a certificate may be this user. Without a map the names are the same.
    pub fn allows(&self, map: Option<&str>, common_name: &str, user: &str) -> bool {
        match map {
            None => common_name == user,
            Some(map) => self.entries.iter().any(|(name, from, to)| name == map && from == common_name && to == user),
        }
    }

    /// There is such a map.
    pub fn has(&self, map: &str) -> bool {
        self.entries.iter().any(|(name, ..)| name == map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(rules: &Rules, address: &str, is_encrypted: bool, database: &str, user: &str) -> Option<Method> {
        let is_own = |address: IpAddr| address.to_string() == "10.0.0.5";
        let peer = Peer { address: address.parse().ok(), is_encrypted, database, user, is_own: &is_own };
        rules.find(&peer).map(|rule| rule.method)
    }

    fn names(names: &[&str]) -> Names {
        Names { all: false, same_user: false, names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    fn network(text: &str) -> AddressRule {
        AddressRule::parse(text).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let reject = Rule { users: names(&["eve"]), ..Rule::host(AddressRule::All, Method::Reject) };
        let trust = Rule::host(network("10.0.0.0/8"), Method::Trust);
        let rules = Rules::new(vec![reject.clone(), trust.clone()]);
        assert_eq!(method(&rules, "10.1.2.3", false, "app", "eve"), Some(Method::Reject));
        assert_eq!(method(&rules, "10.1.2.3", false, "app", "bob"), Some(Method::Trust));
        assert_eq!(method(&rules, "11.1.2.3", false, "app", "bob"), None);
        let turned = Rules::new(vec![trust, reject]);
        assert_eq!(method(&turned, "10.1.2.3", false, "app", "eve"), Some(Method::Trust));
    }

    #[test]
    fn encryption_databases_and_sockets_are_told_apart() {
        let of = |kind, method| Rule { kind, ..Rule::host(AddressRule::All, method) };
        let rules = Rules::new(vec![
            of(ConnectionKind::HostSsl, Method::ScramSha256),
            Rule { databases: names(&["open"]), ..of(ConnectionKind::HostNoSsl, Method::Trust) },
            of(ConnectionKind::Local, Method::Md5),
        ]);
        assert_eq!(method(&rules, "::1", true, "app", "a"), Some(Method::ScramSha256));
        assert_eq!(method(&rules, "::1", false, "app", "a"), None);
        assert_eq!(method(&rules, "::1", false, "open", "a"), Some(Method::Trust));
        assert_eq!(method(&rules, "", false, "app", "a"), Some(Method::Md5));
        let same = Names { all: false, same_user: true, names: vec![] };
        let rules = Rules::new(vec![Rule { databases: same, ..of(ConnectionKind::Host, Method::Trust) }]);
        assert_eq!(method(&rules, "::1", false, "a", "a"), Some(Method::Trust));
        assert_eq!(method(&rules, "::1", false, "b", "a"), None);
    }

    #[test]
    fn networks_compare_their_own_bits_only() {
        let has = |rule: &str, address: &str| {
            let rules = Rules::new(vec![Rule::host(network(rule), Method::Trust)]);
            method(&rules, address, false, "d", "u").is_some()
        };
        assert!(has("0.0.0.0/0", "1.2.3.4") && !has("0.0.0.0/0", "::1"));
        assert!(has("10.0.0.128/25", "10.0.0.255") && !has("10.0.0.128/25", "10.0.0.127"));
        assert!(has("10.0.0.7", "10.0.0.7") && !has("10.0.0.7", "10.0.0.6"));
        assert!(has("2001:db8::/32", "2001:db8:1::1") && !has("2001:db8::/32", "2001:db9::1"));
        // A listener on [::] sees IPv4 clients so.
        assert!(has("10.0.0.0/8", "::ffff:10.1.1.1") && has("loopback", "::ffff:127.0.0.1"));
        assert!(has("loopback", "127.9.9.9") && has("loopback", "::1") && !has("loopback", "10.0.0.5"));
        assert!(has("samehost", "10.0.0.5") && has("samehost", "127.0.0.1") && !has("samehost", "10.0.0.6"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "10.0.0.0/33", "::/129", "db.example.com", "10.0.0.0/-1", "samenet", "10.1.2.3/8", ".example.com"]
        {
            assert!(AddressRule::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_map_names_the_users_of_a_certificate() {
        let entry = |map: &str, from: &str, to: &str| (map.to_owned(), from.to_owned(), to.to_owned());
        let map = IdentMap::new(vec![entry("m", "Bob Smith", "bob"), entry("n", "Bob Smith", "root")]);
        assert!(map.allows(None, "bob", "bob") && !map.allows(None, "Bob Smith", "bob"));
        assert!(map.allows(Some("m"), "Bob Smith", "bob"));
        assert!(!map.allows(Some("m"), "Bob Smith", "root") && !map.allows(Some("m"), "bob", "bob"));
        assert!(map.has("n") && !map.has("o"));
    }
}
