//! Fetches passwords from where the configuration says they are: files, the environment, a users file.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::auth::{ConnectionKind, Method, Rule, Rules, Verifier};
use crate::base::Secret;
use crate::config::{AuthQuery, Config, PasswordSource};
use crate::control::roles::{DEFAULT_SQL, RoleQuery};
use crate::frontend::AccessSettings;

/// Largest file that is read for passwords.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Who may connect, with everything fetched that the file only names.
///
/// # Errors
/// A file or variable that is not there or cannot be understood; no secret is part of the message.
pub fn access(config: &Config, path: &Path) -> Result<AccessSettings, Failure> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let auth = &config.auth;
    let mut users = match &auth.auth_file {
        Some(file) => read_users(&directory.join(file))?,
        None => HashMap::new(),
    };
    for user in &config.users {
        if let Some(source) = &user.password {
            users.insert(user.name.clone(), Verifier::read(&fetch(source, directory)?));
        }
    }
    warn_of_idle_rules(config);
    let query = auth.auth_query.as_ref().map(|query| RoleQuery {
        sql: match query {
            AuthQuery::Catalog => DEFAULT_SQL.to_owned(),
            AuthQuery::Sql(sql) => sql.clone(),
        },
        ttl_ms: u64::try_from(auth.auth_query_ttl.as_millis()).unwrap_or(u64::MAX),
    });
    Ok(AccessSettings {
        rules: auth.rules.clone().map(Rules::new),
        idents: auth.idents.clone(),
        users,
        query,
        cleartext_without_tls: auth.cleartext_without_tls,
        admin_users: auth.admin_users.clone(),
    })
}

/// Rules that can never match are not wrong, but hardly meant.
fn warn_of_idle_rules(config: &Config) {
    let rules = config.auth.rules.as_deref().unwrap_or_default();
    if config.tls.accept.is_none() && rules.iter().any(|rule| rule.kind == ConnectionKind::HostSsl) {
        tracing::warn!("hostssl rules cannot match: [tls] has no certificate");
    }
    let has_authority = config.tls.accept.as_ref().is_some_and(|accept| accept.client_ca.is_some());
    let asks = |rule: &Rule| rule.method == Method::Certificate || rule.certificate.is_some();
    if !has_authority && rules.iter().any(asks) {
        tracing::warn!("rules that ask for certificates let nobody in: [tls] has no client_ca");
    }
}

/// The control role's password. A verifier would open no server.
///
/// # Errors
/// As [`access`].
pub fn control(config: &Config, path: &Path) -> Result<Option<Secret>, Failure> {
    let Some(source) = &config.control.password else { return Ok(None) };
    let password = fetch(source, path.parent().unwrap_or(Path::new(".")))?;
    match Verifier::read(&password) {
        Verifier::Plain(password) => Ok(Some(password)),
        _ => Err(Failure::new("[control] needs the password itself: a verifier opens no server")),
    }
}

/// A password by itself.
///
/// # Errors
/// As [`access`].
pub fn secret(source: &PasswordSource, path: &Path) -> Result<Secret, Failure> {
    fetch(source, path.parent().unwrap_or(Path::new(".")))
}

fn fetch(source: &PasswordSource, directory: &Path) -> Result<Secret, Failure> {
    let secret = match source {
        PasswordSource::Text(text) => text.clone(),
        PasswordSource::File(file) => {
            let text = read(&directory.join(file))?;
            Secret::new(text.expose().lines().next().unwrap_or_default())
        }
        PasswordSource::Environment(variable) => match std::env::var(variable) {
            Ok(text) => Secret::new(text),
            Err(_) => return Err(Failure::new(format!("the environment variable {variable} is not set"))),
        },
    };
    if secret.expose().is_empty() {
        return Err(Failure::new(format!("{} is empty", place(source))));
    }
    Ok(secret)
}

fn place(source: &PasswordSource) -> String {
    match source {
        PasswordSource::Text(_) => "a password".to_owned(),
        PasswordSource::File(file) => format!("the password file {}", file.display()),
        PasswordSource::Environment(variable) => format!("the environment variable {variable}"),
    }
}

fn read(file: &PathBuf) -> Result<Secret, Failure> {
    let failure = |reason: String| Failure::new(format!("cannot read {}: {reason}", file.display()));
    let facts = fs::metadata(file).map_err(|error| failure(error.to_string()))?;
    if facts.len() > FILE_BYTES_MAX {
        return Err(failure("it is too big for a file of passwords".to_owned()));
    }
    if facts.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %file.display(), "others than its owner may read a file of passwords");
    }
    fs::read_to_string(file).map(Secret::new).map_err(|error| failure(error.to_string()))
}

fn read_users(file: &PathBuf) -> Result<HashMap<String, Verifier>, Failure> {
    let text = read(file)?;
    let mut users = HashMap::new();
    for (number, line) in text.expose().lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(';') || line.starts_with('#') {
            continue;
        }
        let Some((user, password)) = read_user(line) else {
            let hint = "a line is \"user\" \"password or verifier\"";
            return Err(Failure::new(format!("{}:{}: not understood; {hint}", file.display(), number + 1)));
        };
        if !password.expose().is_empty() {
            users.insert(user, Verifier::read(&password));
        }
    }
    Ok(users)
}

/// `"user" "password"`; a quote inside is written twice. What stands behind is ignored, as by PgBouncer.
fn read_user(line: &str) -> Option<(String, Secret)> {
    let (user, rest) = read_quoted(line)?;
    let (password, _) = read_quoted(rest.trim_start())?;
    (!user.is_empty()).then(|| (user, Secret::new(password)))
}

fn read_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.strip_prefix('"')?;
    loop {
        let (head, tail) = rest.split_once('"')?;
        value.push_str(head);
        match tail.strip_prefix('"') {
            Some(more) => {
                value.push('"');
                rest = more;
            }
            None => return Some((value, tail)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn users(text: &str) -> Result<HashMap<String, Verifier>, Failure> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        read_users(&file.path().to_owned())
    }

    #[test]
    fn a_users_file_of_pgbouncer_is_understood() {
        let known = users(
            "; a comment\n\n\"app\" \"se \"\"cret\"\" \"\n\"old\" \"md5a3556571e93b0d20722ba62be61e8c2d\" \"x\"\n\"none\" \"\"\n",
        );
        let known = known.unwrap();
        assert_eq!(known.get("app"), Some(&Verifier::Plain(Secret::new("se \"cret\" "))));
        assert!(matches!(known.get("old"), Some(Verifier::Md5(_))));
        assert_eq!(known.len(), 2);
    }

    #[test]
    fn a_broken_line_is_named_and_not_shown() {
        let message = users("\"app\" \"fine\"\n\"app\" hunter2\n").unwrap_err().to_string();
        assert!(message.contains(":2: not understood") && !message.contains("hunter2"), "{message}");
    }

    #[test]
    fn a_password_comes_from_the_first_line_of_a_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"hunter2 \nrest\n").unwrap();
        let source = PasswordSource::File(file.path().to_owned());
        assert_eq!(fetch(&source, Path::new("/")).unwrap(), Secret::new("hunter2 "));
        let missing = PasswordSource::File(PathBuf::from("/nowhere/at/all"));
        assert!(fetch(&missing, Path::new("/")).is_err());
        let missing = PasswordSource::Environment("OSTRAKON_NO_SUCH_VARIABLE".to_owned());
        assert!(fetch(&missing, Path::new("/")).unwrap_err().to_string().contains("OSTRAKON_NO_SUCH_VARIABLE"));
    }
}
