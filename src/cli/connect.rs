//! Finds the running proxy and talks to its admin database.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::Failure;
use super::directory::{self, ProxyFile};

/// The admin database.
const DATABASE: &str = "ostrakon";
const USUAL_URL: &str = "postgres://127.0.0.1:6432/ostrakon";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Taking a shard in copies its reference tables.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// Which proxy to ask.
#[derive(Clone, Debug, Args)]
pub struct ConnectArguments {
    /// Data directory of the cluster; its running proxy is asked.
    #[arg(long, value_name = "DIR", conflicts_with = "connect", global = true)]
    data: Option<PathBuf>,
    /// Address of the proxy [default: the proxy of the usual data directory, else postgres://127.0.0.1:6432/ostrakon].
    #[arg(long, value_name = "URL", global = true)]
    connect: Option<String>,
}

/// How often, and how far apart, a proxy that does not answer is looked for again.
const LAST_LOOKS: usize = 10;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A connection to the admin database.
#[derive(Debug)]
pub struct Admin {
    client: Client,
}

impl Admin {
    /// Connects to the proxy that the arguments name.
    ///
    /// # Errors
    /// Where it looked and what to start.
    pub async fn connect(arguments: &ConnectArguments) -> Result<Self, Failure> {
        let (config, place) = arguments.target()?;
        let outcome = Self::open(config, &place, DATABASE).await;
        if outcome.is_err() {
            // It may have been dying when its file was read: then that is what to say.
            for _ in 0..LAST_LOOKS {
                tokio::time::sleep(LOOK_PAUSE).await;
                arguments.target()?;
            }
        }
        outcome
    }

    /// Connects to a database of the proxy at an address.
    pub async fn at(address: SocketAddr, database: &str) -> Result<Self, Failure> {
        let (config, place) = of_address(address);
        Self::open(config, &place, database).await
    }

    /// Connects to the admin database of the proxy at an address.
    pub async fn admin_at(address: SocketAddr) -> Result<Self, Failure> {
        Self::at(address, DATABASE).await
    }

    /// Connects to the admin database of the proxy at a URL.
    pub async fn at_url(url: &str) -> Result<Self, Failure> {
        Self::open(parse(url)?, url, DATABASE).await
    }

    async fn open(mut config: Config, place: &str, database: &str) -> Result<Self, Failure> {
        if config.get_user().is_none() {
            config.user(std::env::var("PGUSER").as_deref().unwrap_or("app"));
        }
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        config.dbname(database).application_name("ostrakon cli").connect_timeout(CONNECT_TIMEOUT);
        let refused = |error: String| {
            Failure::new(format!(
                "no proxy answers at {place}: {error}\n  \
                 start one with `ostrakon up` or `ostrakon serve`, or name it with --data DIR or --connect URL"
            ))
        };
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT * 2, config.connect(NoTls)).await;
        let (client, connection) =
            connecting.map_err(|_| refused("timed out".to_owned()))?.map_err(|error| refused(describe(&error)))?;
        // Ends when the client is dropped; its errors reach the query that waits.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { client })
    }

    /// Runs an admin command and gives its rows as text.
    pub async fn rows(&self, command: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.client.simple_query(command)).await;
        let messages = answer
            .map_err(|_| Failure::new(format!("the proxy did not answer within {} s", ANSWER_TIMEOUT.as_secs())))?
            .map_err(|error| Failure::new(describe(&error)))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Runs an admin command that answers with one JSON document.
    pub async fn document<T: serde::de::DeserializeOwned>(&self, command: &str) -> Result<T, Failure> {
        let rows = self.rows(command).await?;
        let text = rows.into_iter().flatten().flatten().next();
        let text = text.ok_or_else(|| Failure::new(format!("the proxy gave no answer to {command}")))?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::new(format!("the proxy's answer to {command} is not understood: {error}")))
    }
}

impl ConnectArguments {
    /// The data directory that is meant, when it is one of this machine.
    pub fn directory(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(directory::usual)
    }

    fn target(&self) -> Result<(Config, String), Failure> {
        if let Some(url) = &self.connect {
            return Ok((parse(url)?, url.clone()));
        }
        if let Some(directory) = &self.data {
            let file = ProxyFile::read(directory).ok_or_else(|| {
                Failure::new(format!(
                    "no proxy runs for {}\n  start it with: ostrakon up --data {}",
                    directory.display(),
                    directory.display()
                ))
            })?;
            return Ok(of_address(file.listen));
        }
        match ProxyFile::read(&directory::usual()) {
            Some(file) => Ok(of_address(file.listen)),
            None => Ok((parse(USUAL_URL)?, USUAL_URL.to_owned())),
        }
    }
}

fn parse(url: &str) -> Result<Config, Failure> {
    url.parse().map_err(|error| Failure::new(format!("{url} is no address: {error}\n  like {USUAL_URL}")))
}

fn of_address(listen: SocketAddr) -> (Config, String) {
    let address = reachable(listen);
    let mut config = Config::new();
    config.host(address.ip().to_string()).port(address.port());
    (config, address.to_string())
}

/// An address to connect to for one that is listened on: "everywhere" is reached on loopback.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// An error with all that the server said.
pub fn describe(error: &tokio_postgres::Error) -> String {
    let Some(database) = error.as_db_error() else {
        return match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
    };
    let mut text = format!("{} ({})", database.message(), database.code().code());
    for extra in [database.detail(), database.hint()].into_iter().flatten() {
        text.push_str("\n  ");
        text.push_str(extra);
    }
    text
}

/// A name as SQL text, part by part: `public.orders`, quoted where it must be.
pub fn identifier(name: &str) -> String {
    let quote = |part: &str| {
        let plain = part.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '$');
        if plain { part.to_owned() } else { format!("\"{}\"", part.replace('"', "\"\"")) }
    };
    name.split('.').map(quote).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_only_where_they_must_be() {
        assert_eq!(identifier("public.orders"), "public.orders");
        assert_eq!(identifier("Orders"), "\"Orders\"");
        assert_eq!(identifier("a\"; DROP"), "\"a\"\"; DROP\"");
    }

    #[test]
    fn everywhere_is_reached_on_loopback() {
        assert_eq!(reachable("0.0.0.0:7".parse().unwrap()), "127.0.0.1:7".parse().unwrap());
        assert_eq!(reachable("[::]:7".parse().unwrap()), "[::1]:7".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:7".parse().unwrap()), "10.0.0.1:7".parse().unwrap());
    }
}
