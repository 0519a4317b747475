//! The checker of the mutation test: what must hold of any bytes. It takes the decoder as a value, so that a wrong
//! one can be shown to be caught.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use ostrakon::wire::client_message::{self as client, ClientMessage};
use ostrakon::wire::copy::{CopyError, CopyEvent, CopyField, CopyJoiner, CopyShape};
use ostrakon::wire::frame::{self, Frame};
use ostrakon::wire::server_message::{self as server, tag};
use ostrakon::wire::startup::{self, StartupPacket};
use ostrakon::wire::{WireError, limits};

use crate::copy;

/// What went wrong, in words.
pub type Verdict = Result<bool, String>;

pub type TakeFrame = fn(&mut BytesMut, usize) -> Result<Option<Frame>, WireError>;
pub type DecodeClient = fn(&Frame) -> Result<ClientMessage, WireError>;
pub type SplitCopy = fn(&CopyShape, &[usize], &[u8], &[usize]) -> copy::Events;

/// The decoders under test.
#[derive(Clone, Copy)]
pub struct Decoders {
    pub take_frame: TakeFrame,
    pub decode_client: DecodeClient,
    pub take_startup: fn(&mut BytesMut) -> Result<Option<StartupPacket>, WireError>,
    pub split_copy: SplitCopy,
}

/// Those that ship.
pub const SHIPPED: Decoders = Decoders {
    take_frame: frame::take_frame,
    decode_client: client::decode,
    take_startup: startup::take_startup,
    split_copy: copy::split,
};

/// Which decoder the bytes are for.
#[derive(Clone, Debug)]
pub enum Kind {
    Client,
    Server,
    Startup,
    Copy(CopyShape),
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// Checks bytes; `Ok(true)` when a message was decoded. A panic is a verdict too.
pub fn check(decoders: &Decoders, kind: &Kind, bytes: &[u8], pieces: &[usize]) -> Verdict {
    let checked = catch_unwind(AssertUnwindSafe(|| match kind {
        Kind::Client => check_frames(decoders, bytes, |frame| check_client(decoders, frame)),
        Kind::Server => check_frames(decoders, bytes, check_server),
        Kind::Startup => check_startup(decoders, bytes),
        Kind::Copy(shape) => check_copy(decoders, shape, bytes, pieces),
    }));
    checked.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        Err(format!("panic: {}", message.unwrap_or_else(|| "without a message".to_owned())))
    })
}

/// Frames are the bytes in order, none larger than what was there; the buffer is not enlarged for what it announces.
fn check_frames(decoders: &Decoders, bytes: &[u8], check_frame: impl Fn(&Frame) -> Verdict) -> Verdict {
    let mut buffer = BytesMut::from(bytes);
    let scanned: Vec<_> = frame::scan(bytes).collect();
    let (mut at, mut count, mut decoded) = (0, 0, false);
    loop {
        let taken = (decoders.take_frame)(&mut buffer, limits::MESSAGE_BYTES_MAX);
        ensure(buffer.capacity() <= bytes.len() + 64, || format!("buffer grew to {}", buffer.capacity()))?;
        let frame = match taken {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) => break,
        };
        let end = at + frame.bytes.len();
        ensure(bytes.get(at..end) == Some(&frame.bytes[..]), || format!("frame at {at} is not what was sent"))?;
        let length = frame.bytes.get(1..5).map(|length| i32::from_be_bytes(length.try_into().unwrap()));
        let whole = i32::try_from(frame.bytes.len() - 1).unwrap();
        ensure(length == Some(whole), || format!("frame of {whole} bytes with the length {length:?}"))?;
        let header = scanned.get(count).cloned().and_then(Result::ok);
        ensure(header.map(|header| (header.tag, header.start, header.end)) == Some((frame.tag, at, end)), || {
            format!("scan saw {header:?} at {at}..{end}")
        })?;
        at = end;
        count += 1;
        decoded |= check_frame(&frame)?;
    }
    ensure(bytes.get(at..) == Some(&buffer[..]), || "bytes were lost from the buffer".to_owned())?;
    Ok(decoded)
}

/// A decoded message encodes to the very bytes, so nothing was skipped, invented or read beyond them.
fn check_client(decoders: &Decoders, frame: &Frame) -> Verdict {
    let Ok(message) = (decoders.decode_client)(frame) else { return Ok(false) };
    let mut again = BytesMut::new();
    encode_client(&mut again, &message);
    let all_rows = matches!(message, ClientMessage::Execute { rows_max: 0, .. });
    ensure(again == frame.bytes || (all_rows && again.len() == frame.bytes.len()), || {
        format!("{message:?} is not {:?}", frame.bytes)
    })?;
    let reserved = match &message {
        ClientMessage::Bind(bind) => {
            bind.parameters.capacity() * 4 + (bind.parameter_formats.capacity() + bind.result_formats.capacity()) * 2
        }
        ClientMessage::Parse(parse) => parse.parameter_types.capacity() * 4 + parse.sql.capacity(),
        ClientMessage::Query(sql) => sql.capacity(),
        _ => 0,
    };
    ensure(reserved <= 2 * frame.bytes.len() + 64, || format!("room for {reserved} bytes of {}", frame.bytes.len()))?;
    Ok(true)
}

pub fn encode_client(buffer: &mut BytesMut, message: &ClientMessage) {
    match message {
        ClientMessage::Query(sql) => client::encode_query(buffer, sql),
        ClientMessage::Parse(parse) => {
            client::encode_parse(buffer, &parse.statement, &parse.sql, &parse.parameter_types);
        }
        ClientMessage::Bind(bind) => client::encode_bind(buffer, &bind.portal, &bind.statement, bind),
        ClientMessage::Describe(target) => client::encode_describe(buffer, target),
        ClientMessage::Execute { portal, rows_max } => client::encode_execute(buffer, portal, *rows_max),
        ClientMessage::Close(target) => client::encode_close(buffer, target),
        ClientMessage::Flush => client::encode_flush(buffer),
        ClientMessage::Sync => client::encode_sync(buffer),
        ClientMessage::CopyData(data) => client::encode_copy_data(buffer, data),
        ClientMessage::CopyDone => client::encode_copy_done(buffer),
        ClientMessage::CopyFail(reason) => client::encode_copy_fail(buffer, reason),
        ClientMessage::FunctionCall(call) => client::encode_function_call(buffer, call),
        ClientMessage::Password(answer) => client::encode_password(buffer, answer),
        ClientMessage::Terminate => client::encode_terminate(buffer),
    }
}

/// Reads the body by its tag and writes it again: the same bytes, for all but errors, which are only bounded.
fn check_server(frame: &Frame) -> Verdict {
    let body = frame.body();
    let mut again = BytesMut::new();
    let read = match frame.tag {
        tag::ROW_DESCRIPTION => {
            server::read_row_description(&body).map(|fields| server::write_row_description(&mut again, &fields))
        }
        tag::DATA_ROW => server::read_data_row(&body).map(|values| {
            let values: Vec<_> = values.iter().map(Option::as_deref).collect();
            server::write_data_row(&mut again, &values);
        }),
        tag::COMMAND_COMPLETE => server::read_command_tag(&body).map(|tag| {
            let _ = server::read_row_count(tag);
            server::write_command_complete(&mut again, tag);
        }),
        tag::PARAMETER_DESCRIPTION => server::read_parameter_description(&body)
            .map(|types| server::write_parameter_description(&mut again, &types)),
        tag::PARAMETER_STATUS => server::read_parameter_status(&body)
            .map(|(name, value)| server::write_parameter_status(&mut again, name, value)),
        tag::READY_FOR_QUERY => {
            server::read_ready_for_query(&body).map(|status| server::write_ready_for_query(&mut again, status))
        }
        tag::BACKEND_KEY_DATA => server::read_backend_key(&body)
            .map(|(pid, secret)| server::write_backend_key_data(&mut again, pid, &secret)),
        tag::NOTIFICATION_RESPONSE => server::read_notification(&body).map(|notification| {
            server::write_notification(&mut again, notification.pid, &notification.channel, &notification.payload);
        }),
        // The formats of the columns may differ from the whole, so only the length is the same.
        tag::COPY_IN_RESPONSE | tag::COPY_OUT_RESPONSE | tag::COPY_BOTH_RESPONSE => {
            let read = server::read_copy_response(&body);
            ensure(read.as_ref().is_ok_and(|(_, columns)| body.len() == 3 + 2 * columns) || read.is_err(), || {
                format!("{read:?} of {body:?}")
            })?;
            return Ok(read.is_ok());
        }
        tag::ERROR_RESPONSE | tag::NOTICE_RESPONSE => return check_report(&body),
        _ => return Ok(false),
    };
    ensure(read.is_err() || again == frame.bytes, || format!("read {again:?} of {:?}", frame.bytes))?;
    Ok(read.is_ok())
}

fn check_report(body: &Bytes) -> Verdict {
    let Ok(fields) = server::read_error(body) else { return Ok(false) };
    let texts = [&fields.severity, &fields.code, &fields.message, &fields.detail, &fields.hint, &fields.context];
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    // A byte that is no UTF-8 becomes three; the severity may stand in for its other form.
    ensure(bytes <= 4 * body.len(), || format!("{bytes} bytes of text in {}", body.len()))?;
    Ok(true)
}

fn check_startup(decoders: &Decoders, bytes: &[u8]) -> Verdict {
    let mut buffer = BytesMut::from(bytes);
    let (mut taken, mut decoded) = (0, false);
    loop {
        let packet = (decoders.take_startup)(&mut buffer);
        ensure(buffer.capacity() <= bytes.len() + 64, || format!("buffer grew to {}", buffer.capacity()))?;
        let Ok(Some(packet)) = packet else { return Ok(decoded) };
        decoded = true;
        let end = bytes.len() - buffer.len();
        let used = &bytes[taken..end];
        ensure(used.len() <= limits::STARTUP_BYTES_MAX + 4, || format!("packet of {} bytes", used.len()))?;
        taken = end;
        let mut again = BytesMut::new();
        match &packet {
            StartupPacket::Tls => startup::encode_tls_request(&mut again),
            StartupPacket::Gss => startup::encode_gss_request(&mut again),
            StartupPacket::Cancel { pid, secret } => startup::encode_cancel(&mut again, *pid, secret),
            StartupPacket::Startup { minor, parameters } => {
                let pairs: Vec<_> = parameters.iter().map(|(name, value)| (&name[..], &value[..])).collect();
                startup::encode_startup(&mut again, &pairs);
                again[6..8].copy_from_slice(&minor.to_be_bytes());
            }
            StartupPacket::UnsupportedVersion { .. } => continue,
        }
        ensure(again == used, || format!("{packet:?} is not {used:?}"))?;
    }
}

/// Events are the data in order, keys are no longer than their row, and pieces make no difference.
fn check_copy(decoders: &Decoders, shape: &CopyShape, bytes: &[u8], pieces: &[usize]) -> Verdict {
    let whole = (decoders.split_copy)(shape, &[1, 0], bytes, &[]);
    let pieced = (decoders.split_copy)(shape, &[1, 0], bytes, pieces);
    ensure(whole == pieced, || {
        format!("pieces {pieces:?} of {:?}: {pieced:?} not {whole:?}", Bytes::copy_from_slice(bytes))
    })?;
    let (events, error) = whole;
    let (mut at, mut ended) = (0, false);
    for event in &events {
        let (part, keys) = match event {
            Ok(CopyEvent::Header(part)) => (part, &[][..]),
            Ok(CopyEvent::End(part)) => {
                ended = true;
                (part, &[][..])
            }
            Ok(CopyEvent::Row(row)) => (&row.bytes, &row.keys[..]),
            Err(CopyError::MissingField { row, .. } | CopyError::UnterminatedQuote { row }) => (row, &[][..]),
            Err(error) => return Err(format!("{error} was returned as one that does not end the copy")),
        };
        ensure(bytes.get(at..at + part.len()) == Some(&part[..]), || format!("{event:?} is not what was sent"))?;
        at += part.len();
        for key in keys {
            let length = match key {
                CopyField::Null => 0,
                CopyField::Text(value) => value.len(),
                CopyField::Binary(value) => value.len(),
            };
            ensure(length <= part.len(), || format!("key of {length} bytes in a row of {}", part.len()))?;
        }
    }
    let may_be_left = usize::from(matches!(shape.format, ostrakon::wire::copy::CopyFormat::Binary));
    ensure(ended || error.is_some() || at + may_be_left >= bytes.len(), || format!("lost what follows byte {at}"))?;
    let mut joiner = CopyJoiner::new(shape.clone(), 2);
    let joined: usize =
        (0..2).filter_map(|part| joiner.push(part, &Bytes::copy_from_slice(bytes)).ok()).map(|out| out.len()).sum();
    ensure(joined <= 2 * bytes.len(), || format!("joined {joined} of twice {}", bytes.len()))?;
    Ok(error.is_none())
}
