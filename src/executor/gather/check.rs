//! What a server says of the client's text, of ours and of the fetch, before anything runs.

use crate::error::ClientError;
use crate::executor::Failure;
use crate::executor::link::{Link, failure_of, read_quiet};
use crate::executor::relay::is_good_bye;
use crate::wire::client_message::{self, Target};
use crate::wire::frame::Frame;
use crate::wire::server_message::{self, Field, tag};

/// The texts that are asked about.
pub struct Texts<'t> {
    /// The client's.
    pub client: &'t str,
    /// The one that the finishing shard runs.
    pub finish: &'t str,
    /// The one that fetches the rows of all tables.
    pub fetch: &'t str,
}

/// What is known once both texts say the same.
pub struct Checked {
    /// Columns of the client's statement.
    pub fields: Vec<Field>,
    /// Types of the client's parameters.
    pub own_types: Vec<u32>,
    /// Types of the arrays.
    pub array_types: Vec<u32>,
    /// Types of the arrays' elements.
    pub element_types: Vec<u32>,
}

/// Parameter types and columns of one text.
#[derive(Debug, Default)]
pub struct Described {
    /// Types of its parameters.
    pub types: Vec<u32>,
    /// Its columns.
    pub fields: Vec<Field>,
}

/// Asks about the three texts in one round trip.
///
/// # Errors
/// PostgreSQL's own error about the client's text; a refusal when ours is not equal to it.
pub async fn ask(
    link: &mut Link,
    name: &str,
    texts: &Texts<'_>,
    types: &[u32],
    own: usize,
) -> Result<Checked, Failure> {
    let asked = [(texts.client, types), (texts.finish, types), (texts.fetch, &[])];
    let (described, error) = describe(link, name, &asked).await?;
    let mut described = described.into_iter();
    let Some(client) = described.next() else {
        return Err(error.map_or_else(|| refused("it cannot be described"), Failure::Postgres));
    };
    let (Some(ours), Some(fetched)) = (described.next(), described.next()) else {
        let fields = error.and_then(|error| server_message::read_error(&error.body()).ok());
        return Err(refused(&fields.map(|fields| fields.message).unwrap_or_default()));
    };
    let own_types = client.types;
    if !is_same(&client.fields, &ours.fields)
        || own_types.len() != own
        || ours.types.get(..own) != Some(own_types.as_slice())
    {
        return Err(refused("its columns or parameters would have other types"));
    }
    Ok(Checked {
        fields: client.fields,
        array_types: ours.types.get(own..).unwrap_or_default().to_vec(),
        element_types: fetched.fields.iter().skip(1).map(|field| field.type_oid).collect(),
        own_types,
    })
}

/// Whether two statements give columns of the same names and types.
pub fn is_same(one: &[Field], other: &[Field]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| {
            (&one.name, one.type_oid, one.type_modifier) == (&other.name, other.type_oid, other.type_modifier)
        })
}

/// What a server says of texts, up to the first that it does not take, and its error about that.
///
/// # Errors
/// The connection broke.
pub async fn describe(
    link: &mut Link,
    name: &str,
    texts: &[(&str, &[u32])],
) -> Result<(Vec<Described>, Option<Frame>), Failure> {
    for (sql, types) in texts {
        let sql = link.text(sql);
        let output = link.lease.output();
        client_message::encode_parse(output, "", &sql, types);
        client_message::encode_describe(output, &Target::Statement(String::new()));
    }
    client_message::encode_sync(link.lease.output());
    link.lease.expect_ready();
    link.unsynced = false;
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    read_quiet(link, name).await?;
    let (mut described, mut types, mut error) = (Vec::new(), Vec::new(), None);
    loop {
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::READY_FOR_QUERY => return Ok((described, error)),
            tag::ERROR_RESPONSE if is_good_bye(&frame) => return Err(Failure::Postgres(frame)),
            tag::ERROR_RESPONSE => {
                error.get_or_insert(frame);
            }
            tag::PARAMETER_DESCRIPTION => {
                types = server_message::read_parameter_description(&frame.body()).unwrap_or_default();
            }
            tag::ROW_DESCRIPTION => {
                let fields = server_message::read_row_description(&frame.body()).unwrap_or_default();
                described.push(Described { types: std::mem::take(&mut types), fields });
            }
            tag::NO_DATA => described.push(Described { types: std::mem::take(&mut types), fields: Vec::new() }),
            _ => {}
        }
    }
}

fn refused(reason: &str) -> Failure {
    ClientError::refused(
        "this statement needs rows of several shards and is not supported across shards",
        "Restrict it to one sharding key, or write it with joins on the sharding key.",
    )
    .with_detail(format!("It cannot be computed from gathered rows: {reason}."))
    .into()
}
