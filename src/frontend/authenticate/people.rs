//! What users' proofs are checked against: the configuration first, then the servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Semaphore;

use super::{Denied, conversation, wrong_password};
use crate::auth::scram::{NONCE_BYTES, ServerExchange};
use crate::auth::verifier::ITERATIONS;
use crate::auth::{ScramVerifier, ServerSecret, Verifier, answer_md5, hash_md5, mock_salt};
use crate::base::Secret;
use crate::control::roles::{Account, Found, Roles};
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;

/// What nobody outside knows and what never changes: from it come the salts of users who do not exist.
pub type MockKey = Secret;

/// Passwords that are hashed at the same time: it takes milliseconds of a processor, and clients that have
/// proved nothing ask for it.
const HASHING_MAX: usize = 4;

/// Users, and those who are none.
pub(super) struct People {
    configured: HashMap<String, Arc<Account>>,
    roles: Option<Roles>,
    mock_key: MockKey,
    /// Users with md5 hashes are known: then those who do not exist seem to have one, too.
    mocks_md5: bool,
    hashing: Arc<Semaphore>,
}

/// An account against which a login is checked, and why it cannot succeed.
struct Candidate {
    account: Arc<Account>,
    is_kept: bool,
    hopeless: Option<&'static str>,
}

impl Candidate {
    fn verifier(&self) -> Option<&Verifier> {
        self.account.verifier.as_ref().filter(|_| self.hopeless.is_none())
    }
}

impl People {
    pub(super) fn new(users: HashMap<String, Verifier>, roles: Option<Roles>, mock_key: MockKey) -> Self {
        let mocks_md5 = roles.is_none() && users.values().any(|verifier| !matches!(verifier, Verifier::Scram(_)));
        let configured = users.into_iter().map(|(user, verifier)| (user, Arc::new(Account::new(verifier))));
        Self {
            configured: configured.collect(),
            roles,
            mock_key,
            mocks_md5,
            hashing: Arc::new(Semaphore::new(HASHING_MAX)),
        }
    }

    async fn candidate(&self, user: &str) -> Result<Candidate, Denied> {
        if let Some(account) = self.configured.get(user) {
            return Ok(Candidate { account: Arc::clone(account), is_kept: false, hopeless: None });
        }
        let Some(roles) = &self.roles else {
            return Ok(Candidate { account: Arc::default(), is_kept: false, hopeless: Some("the user is not known") });
        };
        let Found { account, is_kept } = roles.look_up(user).await.map_err(|error| {
            tracing::warn!(%error, "a role cannot be looked up");
            let text = "the verifier of the role cannot be read";
            let error = ClientError::new(ErrorId::ShardUnreachable, text)
                .with_detail("The home shard gave no answer to the proxy's auth_query.")
                .with_hint("Try again; the proxy's log says more.");
            Denied::Refused { error, reason: "auth_query failed" }
        })?;
        let hopeless = match &account {
            None => Some("the role does not exist"),
            Some(account) if account.verifier.is_none() => Some("the role has no password"),
            Some(account) if account.valid_until.is_some_and(|until| until < SystemTime::now()) => {
                Some("the role's password has expired")
            }
            Some(_) => None,
        };
        Ok(Candidate { account: account.unwrap_or_default(), is_kept, hopeless })
    }

    /// Asks for the password itself and checks it.
    pub(super) async fn ask_password(&self, client: &mut Framed, user: &str) -> Result<ServerSecret, Denied> {
        let password = conversation::ask_cleartext(client, user).await?;
        let mut candidate = self.candidate(user).await?;
        let mut is_right = self.accepts(&candidate, user, &password).await;
        if !is_right && candidate.is_kept && self.forget(user) {
            candidate = self.candidate(user).await?;
            is_right = self.accepts(&candidate, user, &password).await;
        }
        self.conclude(user, &candidate, is_right)?;
        Ok(ServerSecret::password(password))
    }

    /// Asks for an md5 answer, or for SCRAM where md5 cannot be checked.
    pub(super) async fn ask_md5(&self, client: &mut Framed, user: &str) -> Result<ServerSecret, Denied> {
        let mut candidate = self.candidate(user).await?;
        let by_md5 = match candidate.verifier() {
            Some(Verifier::Md5(_) | Verifier::Plain(_)) => true,
            Some(Verifier::Scram(_)) => false,
            None => self.mocks_md5,
        };
        if !by_md5 {
            return self.by_scram(client, user, candidate).await;
        }
        let salt = random()?;
        let answer = conversation::ask_md5(client, user, salt).await?;
        let check = |candidate: &Candidate| {
            let hash = match candidate.verifier() {
                Some(Verifier::Md5(hash)) => hash.clone(),
                Some(Verifier::Plain(password)) => hash_md5(user, password),
                _ => return None,
            };
            (answer_md5(&hash, salt) == answer).then_some(hash)
        };
        let mut right = check(&candidate);
        if right.is_none() && candidate.is_kept && self.forget(user) {
            candidate = self.candidate(user).await?;
            right = check(&candidate);
        }
        self.conclude(user, &candidate, right.is_some())?;
        Ok(right.map(|hash| ServerSecret::of_verifier(&Verifier::Md5(hash))).unwrap_or_default())
    }

    /// Asks for SCRAM.
    pub(super) async fn ask_scram(&self, client: &mut Framed, user: &str) -> Result<ServerSecret, Denied> {
        let candidate = self.candidate(user).await?;
        self.by_scram(client, user, candidate).await
    }

    async fn by_scram(
        &self,
        client: &mut Framed,
        user: &str,
        mut candidate: Candidate,
    ) -> Result<ServerSecret, Denied> {
        let verifier = match candidate.verifier() {
            Some(Verifier::Scram(verifier)) => Some(verifier.clone()),
            Some(Verifier::Plain(password)) => Some(self.scram_of(&candidate.account, user, password).await),
            Some(Verifier::Md5(_)) => {
                candidate.hopeless = Some("the role has an md5 verifier, which SCRAM cannot use");
                None
            }
            None => None,
        };
        let is_mock = verifier.is_none();
        let verifier = verifier.unwrap_or_else(|| ScramVerifier::mock(&mock_salt(&self.mock_key, user)));
        let end_point = client.tls().and_then(|facts| facts.server_end_point.clone());
        let exchange = ServerExchange::new(verifier, is_mock, end_point, random::<NONCE_BYTES>()?);
        let keys = conversation::ask_scram(client, exchange).await?;
        if keys.is_none() && candidate.is_kept {
            // The salt has been told: only the next attempt can be checked against a new verifier.
            self.forget(user);
        }
        self.conclude(user, &candidate, keys.is_some())?;
        Ok(keys.map(ServerSecret::keys).unwrap_or_default())
    }

    fn conclude(&self, user: &str, candidate: &Candidate, is_right: bool) -> Result<(), Denied> {
        if !is_right || candidate.hopeless.is_some() {
            return Err(wrong_password(user, candidate.hopeless.unwrap_or("the password is wrong")));
        }
        if candidate.account.is_barred {
            let text = format!("role \"{user}\" is not permitted to log in");
            let error = ClientError::new(ErrorId::InvalidAuthorization, text);
            return Err(Denied::Refused { error, reason: "the role may not log in" });
        }
        Ok(())
    }

    fn forget(&self, user: &str) -> bool {
        self.roles.as_ref().is_some_and(|roles| roles.forget(user))
    }

    /// Checks a password, and for users who have none takes as long.
    async fn accepts(&self, candidate: &Candidate, user: &str, password: &Secret) -> bool {
        let mock = || Verifier::Scram(ScramVerifier::mock(&mock_salt(&self.mock_key, user)));
        let verifier = candidate.verifier().cloned().unwrap_or_else(mock);
        let (user, password) = (user.to_owned(), password.clone());
        self.hash(move || verifier.accepts(&user, &password)).await.unwrap_or(false)
    }

    /// The SCRAM verifier of a password that is known, made once.
    async fn scram_of(&self, account: &Account, user: &str, password: &Secret) -> ScramVerifier {
        let salt = mock_salt(&self.mock_key, user);
        let make = || async {
            let password = password.clone();
            let made = self.hash(move || ScramVerifier::of(&password, &salt, ITERATIONS)).await;
            made.unwrap_or_else(|| ScramVerifier::mock(&salt))
        };
        account.scram.get_or_init(make).await.clone()
    }

    /// Runs work of milliseconds beside the sessions, a few at a time.
    async fn hash<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        // Waits as long as the login may take.
        let _turn = self.hashing.acquire().await.ok()?;
        tokio::task::spawn_blocking(work).await.ok()
    }
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], Denied> {
    let mut bytes = [0u8; LENGTH];
    getrandom::fill(&mut bytes).map_err(|_| Denied::Refused {
        error: ClientError::new(ErrorId::Internal, "no random numbers for the login"),
        reason: "the operating system gives no random numbers",
    })?;
    Ok(bytes)
}
