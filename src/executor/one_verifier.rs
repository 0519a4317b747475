//! A role's password becomes one SCRAM verifier for all shards.
//!
//! Each server would salt it by itself, and a client that logs in with SCRAM proves its password for one
//! salt only: its login would open one shard and no other. psql's `\password` hashes passwords before it
//! sends them as well. What is lost with it is lost there, too: a server's `passwordcheck` sees no text.

use super::{Failure, Session};
use crate::auth::{ScramVerifier, Verifier, verifier::ITERATIONS};
use crate::base::Secret;
use crate::error::{ClientError, ErrorId};
use crate::session::Parsed;
use crate::sql::Spliced;
use crate::sql::TokenKind;
use crate::sql::ast::Statement;

/// Bytes of salt, as PostgreSQL's.
const SALT_BYTES: usize = 16;

impl Session {
    /// The text that sets the password as one verifier, when the statement sets one in clear text.
    ///
    /// # Errors
    /// There are no random numbers; nothing ran.
    pub(super) async fn with_one_verifier(&self, parsed: &Parsed) -> Result<Option<Spliced>, Failure> {
        // md5 hashes have no salt: the servers agree by themselves.
        if self.settings.changed_sql("password_encryption").is_some_and(|sql| sql.to_lowercase().contains("md5")) {
            return Ok(None);
        }
        let Some((start, end, password)) = find_password(parsed) else { return Ok(None) };
        let internal = |text: &str| ClientError::new(ErrorId::Internal, text);
        let mut salt = [0u8; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|_| internal("no random numbers for the salt of a password"))?;
        let verifier = tokio::task::spawn_blocking(move || ScramVerifier::of(&password, &salt, ITERATIONS).to_text())
            .await
            .map_err(|_| internal("the verifier of a password could not be computed"))?;
        let mut text = Spliced::with_capacity(parsed.text.len() + 200);
        text.keep(&parsed.text, 0..start);
        text.replace(&(start..end), &format!("'{}'", verifier.expose()));
        text.keep(&parsed.text, end..parsed.text.len());
        Ok(Some(text))
    }
}

/// Where the password stands in CREATE or ALTER ROLE, USER or GROUP, and what it is.
fn find_password(parsed: &Parsed) -> Option<(usize, usize, Secret)> {
    let Ok(Statement::Ddl(ddl)) = &*parsed.statement else { return None };
    let sets =
        matches!(ddl.verb.as_str(), "CREATE" | "ALTER") && matches!(ddl.object.as_str(), "ROLE" | "USER" | "GROUP");
    if !sets {
        return None;
    }
    // The third word is the role's name, whatever it is.
    let word = (3..parsed.lexed.tokens.len()).find(|at| parsed.lexed.is_keyword(&parsed.text, *at, "password"))?;
    let token = parsed.lexed.tokens.get(word + 1)?;
    let TokenKind::Literal(literal) = token.kind else { return None };
    let written = Secret::new(parsed.lexed.literals.get(literal)?.value.clone());
    match Verifier::read(&written) {
        Verifier::Plain(password) if !password.expose().is_empty() => Some((token.start, token.end, password)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sql::{lexer, parse};

    fn found(text: &str) -> Option<String> {
        let lexed = lexer::lex(text).unwrap();
        let statement = Arc::new(parse::parse(text, &lexed).map_err(|error| error.to_string()));
        let parsed =
            Parsed { text: text.to_owned(), lexed, statement, fingerprint: None, signals: Vec::new(), made: None };
        let (start, end, password) = find_password(&parsed)?;
        Some(format!("{}|{}|{}", &text[..start], password.expose(), &text[end..]))
    }

    #[test]
    fn a_password_is_found_where_it_is_one() {
        let is = |text: &str, expected: &str| assert_eq!(found(text).as_deref(), Some(expected), "{text}");
        is("CREATE ROLE a LOGIN PASSWORD 'p' SUPERUSER", "CREATE ROLE a LOGIN PASSWORD |p| SUPERUSER");
        is("create user password encrypted password E'it\\'s'", "create user password encrypted password |it's|");
        is("ALTER GROUP a WITH PASSWORD $$p$$", "ALTER GROUP a WITH PASSWORD |p|");
        for text in [
            "ALTER ROLE a PASSWORD NULL",
            "ALTER ROLE a PASSWORD ''",
            "ALTER ROLE a PASSWORD 'md5a3556571e93b0d20722ba62be61e8c2d'",
            "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password 'p')",
            "ALTER ROLE a SET application_name TO 'password'",
            "SELECT 'password' AS password",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
