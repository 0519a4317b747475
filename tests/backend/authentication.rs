//! Every method that a server may ask for.

use std::fs;

use ostrakon::auth::ServerSecret;
use ostrakon::backend::{BackendError, Connection};
use ostrakon::base::Secret;
use ostrakon::wire::server_message::read_error;

use crate::postgres::ThrowawayPostgres;
use crate::support::{run, target};

#[tokio::test]
async fn every_authentication_method_works_and_wrong_passwords_do_not() {
    let server = ThrowawayPostgres::start(15900);
    server.psql(
        "postgres",
        "SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'se''cret'; \
         SET password_encryption = 'scram-sha-256'; CREATE ROLE scram_user LOGIN PASSWORD 'pässwörd'; \
         CREATE ROLE plain_user LOGIN PASSWORD 'open'; CREATE ROLE nobody LOGIN",
    );
    fs::write(
        server.data().join("pg_hba.conf"),
        "host all md5_user 127.0.0.1/32 md5\n\
         host all scram_user 127.0.0.1/32 scram-sha-256\n\
         host all plain_user 127.0.0.1/32 password\n\
         host all nobody 127.0.0.1/32 reject\n\
         host all all 127.0.0.1/32 trust\n",
    )
    .unwrap();
    server.psql("postgres", "SELECT pg_reload_conf()");

    for (user, password) in [
        ("postgres", None),
        ("md5_user", Some("se'cret")),
        ("scram_user", Some("pässwörd")),
        ("plain_user", Some("open")),
    ] {
        let mut target = target(15900);
        target.user = user.into();
        target.secret = secret(password);
        let mut connection = loop {
            // The reload is not there at once.
            match Connection::connect(&target).await {
                Ok(connection) => break connection,
                Err(BackendError::Refused { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{user}: {error}"),
            }
        };
        assert_eq!(run(&mut connection, "SELECT current_user").await, [user]);
        assert_eq!(connection.parameters().get("client_encoding").map(String::as_str), Some("UTF8"));
        assert_eq!(connection.parameters().get("application_name").map(String::as_str), Some(""));
        let pid = run(&mut connection, "SELECT pg_backend_pid()").await;
        assert_eq!(pid, [connection.pid().to_string()]);
        connection.close().await;

        if password.is_some() {
            target.secret = secret(Some("wrong"));
            let refusal = Connection::connect(&target).await.unwrap_err();
            let fields = read_error(&refusal.error_frame().expect("PostgreSQL's own error").body()).unwrap();
            assert_eq!(fields.code, "28P01", "{user}");
            assert!(refusal.nothing_ran());

            target.secret = secret(None);
            let missing = Connection::connect(&target).await.unwrap_err();
            assert!(matches!(missing, BackendError::Authentication { .. }), "{missing}");
        }
    }

    let mut rejected = target(15900);
    rejected.user = "nobody".into();
    assert_eq!(code_of(&rejected).await, "28000");
    let mut nowhere = target(15900);
    nowhere.database = "nowhere".into();
    assert_eq!(code_of(&nowhere).await, "3D000");
}

fn secret(password: Option<&str>) -> ServerSecret {
    password.map(|password| ServerSecret::password(Secret::new(password))).unwrap_or_default()
}

async fn code_of(target: &ostrakon::backend::ConnectTarget) -> String {
    let refusal = Connection::connect(target).await.unwrap_err();
    assert_eq!(refusal.to_client_error("s1").sqlstate(), "08006");
    read_error(&refusal.error_frame().expect("PostgreSQL's own error").body()).unwrap().code
}

#[tokio::test]
async fn a_port_without_a_server_and_a_server_that_says_nothing_are_unreachable() {
    let refused = Connection::connect(&target(15949)).await.unwrap_err();
    assert!(matches!(refused, BackendError::Connect { .. }), "{refused}");
    assert_eq!(refused.to_client_error("s1").sqlstate(), "08006");

    let silent = tokio::net::TcpListener::bind("127.0.0.1:15948").await.unwrap();
    let mut target = target(15948);
    target.connect_timeout_ms = 100;
    let late = Connection::connect(&target).await.unwrap_err();
    assert!(matches!(late, BackendError::Timeout { .. }), "{late}");
    drop(silent);
}
