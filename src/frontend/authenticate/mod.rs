//! Who a client is, and whether it may come in: the rules, then the proof that they ask for.
//!
//! Errors have PostgreSQL's words and codes, and tell a client no more than PostgreSQL would: a user who
//! does not exist, has no password, or whose password has expired goes through the same conversation as
//! one who mistypes it. The reason is in the proxy's log.
//!
//! Must not know: how the servers are opened afterwards.

mod conversation;
mod people;

use std::collections::HashMap;
use std::net::IpAddr;

use crate::auth::{CertificateCheck, IdentMap, Method, Peer, Rule, Rules, ServerSecret, Verifier};
use crate::control::roles::{RoleQuery, Roles};
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};

use super::ADMIN_DATABASE;
use people::People;

pub use people::MockKey;

/// Who may connect, and by what proof.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// Rules; without any, [`Rules::trust_loopback`] or, where passwords are known, [`Rules::scram_everywhere`].
    pub rules: Option<Rules>,
    /// Maps from common names of certificates to users.
    pub idents: IdentMap,
    /// What is known of users from the configuration.
    pub users: HashMap<String, Verifier>,
    /// How the servers are asked about users of whom nothing is configured.
    pub query: Option<RoleQuery>,
    /// Passwords in clear text are taken from clients without TLS.
    pub cleartext_without_tls: bool,
    /// Who may use the admin database; without it the control role, and who is trusted on this machine.
    pub admin_users: Option<Vec<String>>,
}

impl AccessSettings {
    /// The rules in force.
    pub fn effective_rules(&self) -> Rules {
        let default = || {
            let knows_passwords = !self.users.is_empty() || self.query.is_some();
            if knows_passwords { Rules::scram_everywhere() } else { Rules::trust_loopback() }
        };
        self.rules.clone().unwrap_or_else(default)
    }
}

/// Lets clients in.
pub struct Access {
    rules: Rules,
    idents: IdentMap,
    people: People,
    cleartext_without_tls: bool,
    admin_users: Option<Vec<String>>,
    control_user: String,
}

/// A client that has been let in.
#[derive(Debug)]
pub(super) struct Identity {
    /// What its proof has left: it opens servers.
    pub(super) secret: ServerSecret,
}

/// Why a client is not let in.
pub(super) enum Denied {
    /// It is told so; the log knows why.
    Refused { error: ClientError, reason: &'static str },
    /// It went away, as clients do that first look whether a password is asked for.
    Gone,
    /// The stream broke.
    Broken(NetError),
}

impl From<NetError> for Denied {
    fn from(error: NetError) -> Self {
        Self::Broken(error)
    }
}

/// A client as the rules see it.
#[derive(Clone, Copy)]
struct Applicant<'a> {
    user: &'a str,
    database: &'a str,
    address: Option<IpAddr>,
    is_encrypted: bool,
}

impl Access {
    /// Puts the parts together. `control_user` is the admin of an installation that names none.
    pub fn new(settings: AccessSettings, control_user: &str, roles: Option<Roles>, mock_key: MockKey) -> Self {
        let rules = settings.effective_rules();
        for rule in rules.iter().filter(|rule| rule.method == Method::Password && settings.cleartext_without_tls) {
            tracing::warn!(rule = ?rule.kind, "passwords of clients may cross the network in clear text");
        }
        Self {
            rules,
            idents: settings.idents,
            people: People::new(settings.users, roles, mock_key),
            cleartext_without_tls: settings.cleartext_without_tls,
            admin_users: settings.admin_users,
            control_user: control_user.to_owned(),
        }
    }

    /// Finds out who a client is.
    ///
    /// # Errors
    /// It is not let in.
    ///
    /// # Cancel safety
    /// Not safe: a half-done conversation cannot be resumed; close the connection.
    pub(super) async fn authenticate(
        &self,
        client: &mut Framed,
        user: &str,
        database: &str,
    ) -> Result<Identity, Denied> {
        // A socket that does not tell whom it leads to is none of this machine's own.
        let unknown = IpAddr::from([0, 0, 0, 0]);
        let address = client.peer().map_or(unknown, |peer| peer.ip().to_canonical());
        let address = (!client.is_local()).then_some(address);
        let applicant = Applicant { user, database, address, is_encrypted: client.tls().is_some() };
        let outcome = self.admit(client, &applicant).await;
        if let Err(Denied::Refused { reason, error }) = &outcome {
            let code = error.sqlstate();
            tracing::info!(user, database, address = ?address, code, reason, "a client was not let in");
        }
        outcome
    }

    async fn admit(&self, client: &mut Framed, applicant: &Applicant<'_>) -> Result<Identity, Denied> {
        let is_own = |address: IpAddr| is_own_address(address);
        let rule = self.rules.find(&Peer {
            address: applicant.address,
            is_encrypted: applicant.is_encrypted,
            database: applicant.database,
            user: applicant.user,
            is_own: &is_own,
        });
        let Some(rule) = rule else { return Err(no_entry(applicant)) };
        if let Some(check) = rule.certificate {
            self.check_certificate(client, rule, applicant, check)?;
        }
        let secret = match rule.method {
            Method::Trust => ServerSecret::default(),
            Method::Reject => return Err(rejected(applicant)),
            Method::Certificate => {
                self.check_certificate(client, rule, applicant, CertificateCheck::VerifyFull)?;
                ServerSecret::default()
            }
            Method::Password
                if !applicant.is_encrypted && applicant.address.is_some() && !self.cleartext_without_tls =>
            {
                return Err(not_in_clear());
            }
            Method::Password => self.people.ask_password(client, applicant.user).await?,
            Method::Md5 => self.people.ask_md5(client, applicant.user).await?,
            Method::ScramSha256 => self.people.ask_scram(client, applicant.user).await?,
        };
        if applicant.database == ADMIN_DATABASE && !self.is_admin(rule, applicant) {
            return Err(no_admin(applicant.user));
        }
        Ok(Identity { secret })
    }

    fn is_admin(&self, rule: &Rule, applicant: &Applicant<'_>) -> bool {
        match &self.admin_users {
            Some(admins) => admins.iter().any(|admin| admin == applicant.user),
            None => {
                let is_here = applicant.address.is_none_or(|address| address.is_loopback());
                applicant.user == self.control_user || (rule.method == Method::Trust && is_here)
            }
        }
    }

    fn check_certificate(
        &self,
        client: &Framed,
        rule: &Rule,
        applicant: &Applicant<'_>,
        check: CertificateCheck,
    ) -> Result<(), Denied> {
        let Some(certificate) = client.tls().and_then(|facts| facts.peer.as_ref()) else {
            let text = "connection requires a valid client certificate";
            let error = ClientError::new(ErrorId::InvalidAuthorization, text);
            return Err(Denied::Refused { error, reason: "no certificate was shown" });
        };
        if check == CertificateCheck::VerifyCa {
            return Ok(());
        }
        let name = certificate.common_name.as_deref().filter(|name| !name.is_empty());
        if name.is_some_and(|name| self.idents.allows(rule.map.as_deref(), name, applicant.user)) {
            return Ok(());
        }
        let text = format!("certificate authentication failed for user \"{}\"", applicant.user);
        let error = ClientError::new(ErrorId::InvalidAuthorization, text);
        Err(Denied::Refused { error, reason: "the certificate is for somebody else" })
    }
}

/// Words of PostgreSQL for where a client comes from.
fn whence(applicant: &Applicant<'_>) -> String {
    let Applicant { user, database, address, is_encrypted } = applicant;
    let host = address.map_or_else(|| "[local]".to_owned(), |address| address.to_string());
    let encryption = if *is_encrypted { "SSL encryption" } else { "no encryption" };
    format!("host \"{host}\", user \"{user}\", database \"{database}\", {encryption}")
}

fn no_entry(applicant: &Applicant<'_>) -> Denied {
    let text = format!("no pg_hba.conf entry for {}", whence(applicant));
    let error = ClientError::new(ErrorId::InvalidAuthorization, text)
        .with_hint("The proxy's own rules decide: [[hba]] of its configuration.");
    Denied::Refused { error, reason: "no rule matches" }
}

fn rejected(applicant: &Applicant<'_>) -> Denied {
    let text = format!("pg_hba.conf rejects connection for {}", whence(applicant));
    Denied::Refused { error: ClientError::new(ErrorId::InvalidAuthorization, text), reason: "a rule rejects it" }
}

fn not_in_clear() -> Denied {
    let text = "password authentication in clear text requires a TLS connection";
    let error = ClientError::new(ErrorId::InvalidAuthorization, text)
        .with_hint("Connect with sslmode=require, or let the rule ask for scram-sha-256.");
    Denied::Refused { error, reason: "clear text without TLS" }
}

fn no_admin(user: &str) -> Denied {
    let text = format!("permission denied for database \"{ADMIN_DATABASE}\"");
    let error = ClientError::new(ErrorId::InsufficientPrivilege, text)
        .with_detail(format!("User \"{user}\" is not an admin of the proxy."))
        .with_hint("Admins are named in [auth] admin_users.");
    Denied::Refused { error, reason: "not an admin" }
}

/// PostgreSQL's words for a proof that failed, whatever it failed for.
fn wrong_password(user: &str, reason: &'static str) -> Denied {
    let text = format!("password authentication failed for user \"{user}\"");
    Denied::Refused { error: ClientError::new(ErrorId::InvalidPassword, text), reason }
}

/// Whether an address is one of this machine's; asked at each login, as addresses come and go.
fn is_own_address(address: IpAddr) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return false };
    interfaces.filter_map(|interface| interface.address).any(|own| {
        let v4 = own.as_sockaddr_in().map(|own| IpAddr::V4(own.ip()));
        let v6 = own.as_sockaddr_in6().map(|own| IpAddr::V6(own.ip()));
        v4.or(v6) == Some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Secret;

    #[test]
    fn nobody_is_trusted_where_passwords_are_known() {
        let mut settings = AccessSettings::default();
        assert_eq!(settings.effective_rules(), Rules::trust_loopback());
        settings.users.insert("a".to_owned(), Verifier::Plain(Secret::new("p")));
        assert_eq!(settings.effective_rules(), Rules::scram_everywhere());
        let query = RoleQuery { sql: String::new(), ttl_ms: 1 };
        let settings = AccessSettings { query: Some(query), ..AccessSettings::default() };
        assert_eq!(settings.effective_rules(), Rules::scram_everywhere());
        let settings = AccessSettings { rules: Some(Rules::new(Vec::new())), ..settings };
        assert_eq!(settings.effective_rules(), Rules::new(Vec::new()), "written rules are all there is");
    }

    #[test]
    fn loopback_is_an_own_address_and_a_foreign_one_is_not() {
        assert!(is_own_address("127.0.0.1".parse().unwrap()));
        assert!(!is_own_address("203.0.113.7".parse().unwrap()));
    }
}
