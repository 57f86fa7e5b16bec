//! How gRPC frames one message, and where it says how a call ended.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>. The words of a status are tonic's; the frame of
//! a unary call is five bytes, read and written here: tonic's server answers INTERNAL to a frame that is cut off,
//! and so blames itself for what the caller did.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Full};

use super::message::{Alone, Reader};
use crate::{Body, Code, Error};

/// What stands before each message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;
/// How the sender compresses.
pub(super) const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// What the receiver can decompress.
pub(super) const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// How the call ended.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The content type of requests and responses.
pub(crate) const CONTENT_TYPE: &str = "application/grpc";
/// No compression, the only one there is.
pub(super) const IDENTITY: &str = "identity";

/// One message with what stands before it.
///
/// # Errors
/// It is longer than four gigabytes.
pub(crate) fn frame<M>(alone: Alone<M>, message: &M) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    append(alone, message, &mut out)?;
    Ok(out)
}

/// The same, behind what is in `out` already.
///
/// # Errors
/// As [`frame`]; then nothing is appended.
pub(crate) fn append<M>(alone: Alone<M>, message: &M, out: &mut Vec<u8>) -> Result<(), Error> {
    let len = (alone.len)(message);
    let prefix = u32::try_from(len).map_err(Error::internal)?;
    out.reserve(PREFIX + len);
    out.push(0);
    out.extend_from_slice(&prefix.to_be_bytes());
    (alone.encode)(message, out);
    Ok(())
}

/// The one message in a body that has been read to its end.
///
/// # Errors
/// [`Code::InvalidArgument`]: there is none, or more, or it is not what it should be. [`Code::Unimplemented`]: it is
/// compressed.
pub(crate) fn unframe<M>(alone: Alone<M>, bytes: &[u8]) -> Result<M, Error> {
    let Some(([flag, len @ ..], message)) = bytes.split_first_chunk::<PREFIX>() else {
        return Err(Error::invalid("", "the body must have one message"));
    };
    match flag {
        0 => {}
        1 => return Err(compressed("in an unnamed encoding")),
        _ => return Err(Error::invalid("", "the body must have one message")),
    }
    if message.len() != u32::from_be_bytes(*len) as usize {
        return Err(Error::invalid("", "the body must have one message"));
    }
    Ok((alone.decode)(Reader::new(message))?)
}

/// Compression is not offered, so nobody should use it.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get(ENCODING) {
        Some(encoding) if encoding != IDENTITY => Err(compressed(&format!(
            "as {}",
            encoding.to_str().unwrap_or("?")
        ))),
        _ => Ok(()),
    }
}

fn compressed(how: &str) -> Error {
    Error::new(
        Code::Unimplemented,
        format!("the message is compressed {how}; only identity is supported"),
    )
}

/// A body of one framed message and the trailers that say that the call went well.
pub(crate) fn answer(frame: Vec<u8>) -> Body {
    let ok = HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))]);
    Body::stream(Full::new(Bytes::from(frame)).with_trailers(std::future::ready(Some(Ok(ok)))))
}

/// What says how a stream ended, behind its last message.
pub(crate) fn trailers(ending: Result<(), Error>) -> HeaderMap {
    let status = match ending {
        Ok(()) => tonic::Status::new(tonic::Code::Ok, ""),
        Err(error) => crate::wire::status(&error),
    };
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // A message that no header can hold.
        trailers.insert(STATUS, HeaderValue::from(status.code() as i32));
    }
    trailers
}

/// The first message in `bytes`, if it is there as a whole, and how many of them it takes.
///
/// # Errors
/// There is something else, or a message longer than `limit`.
pub(crate) fn first<M>(
    alone: Alone<M>,
    bytes: &[u8],
    limit: usize,
) -> Result<Option<(M, usize)>, Error> {
    let Some(([_, len @ ..], _)) = bytes.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*len) as usize;
    if len > limit {
        return Err(Error::too_large(limit));
    }
    match bytes.get(..PREFIX + len) {
        Some(frame) => Ok(Some((unframe(alone, frame)?, frame.len()))),
        None => Ok(None),
    }
}

/// How the call ended, where the headers or trailers say so.
pub(super) fn ending(headers: &HeaderMap) -> Option<Result<(), Error>> {
    let status = tonic::Status::from_header_map(headers)?;
    Some(match status.code() {
        tonic::Code::Ok => Ok(()),
        _ => Err(crate::wire::from_status(&status)),
    })
}
