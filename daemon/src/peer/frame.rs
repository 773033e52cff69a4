//! Frames on a byte stream: read without trusting a length, written with header and payload in one buffer.

use super::protocol::{FRAME_BYTES_MAX, Kind};
use bytes::{Buf, Bytes, BytesMut};
use konsul_state::{Reader, Writer};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Most that is allocated ahead of the bytes that have arrived.
const READ_AHEAD_BYTES: usize = 256 << 10;
const LENGTH_BYTES: usize = 4;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) id: u64,
    /// Shares the buffer the frame was read into.
    pub(super) payload: Bytes,
}

/// A frame that could not be read; the stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection broke")]
    Read(#[source] io::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("the connection ended in the middle of a frame, {missing} bytes before its end")]
    Truncated { missing: usize },
    #[error("a frame of {bytes} bytes is longer than the {max} allowed here")]
    TooLong { bytes: usize, max: usize },
    #[error("a frame of {bytes} bytes is too short to be one")]
    TooShort { bytes: usize },
    #[error("a frame of the unknown kind {byte:#04x}; one of the nodes may have to be upgraded")]
    UnknownKind { byte: u8 },
}

/// The bytes read so far. Reading may be cancelled and taken up again.
#[derive(Debug)]
pub(super) struct FrameBuffer {
    bytes: BytesMut,
    max: usize,
}

impl FrameBuffer {
    pub(super) fn new(max: usize) -> FrameBuffer {
        FrameBuffer { bytes: BytesMut::new(), max }
    }

    /// From now on frames may be this long.
    pub(super) fn allow(&mut self, max: usize) {
        self.max = max;
    }

    /// The next frame. Cancel safe.
    pub(super) async fn next<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> Result<Frame, FrameError> {
        loop {
            let missing = self.missing()?;
            if missing == 0 {
                return self.take();
            }
            self.bytes.reserve(missing.min(READ_AHEAD_BYTES));
            let read = match from.read_buf(&mut self.bytes).await {
                // A process that was killed says no goodbye in TLS; frames tell where it ended.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                read => read.map_err(FrameError::Read)?,
            };
            if read == 0 {
                let at_border = self.bytes.is_empty();
                return Err(if at_border { FrameError::Closed } else { FrameError::Truncated { missing } });
            }
        }
    }

    fn length(&self) -> Option<usize> {
        let length = self.bytes.first_chunk::<LENGTH_BYTES>()?;
        Some(usize::try_from(u32::from_le_bytes(*length)).expect("usize has 32 bits at least"))
    }

    /// How many bytes the frame lacks, as far as that is known.
    fn missing(&self) -> Result<usize, FrameError> {
        let Some(bytes) = self.length() else {
            return Ok(LENGTH_BYTES - self.bytes.len());
        };
        if bytes > self.max {
            return Err(FrameError::TooLong { bytes, max: self.max });
        }
        Ok((LENGTH_BYTES + bytes).saturating_sub(self.bytes.len()))
    }

    fn take(&mut self) -> Result<Frame, FrameError> {
        let length = self.length().expect("nothing is missing");
        self.bytes.advance(LENGTH_BYTES);
        let frame = self.bytes.split_to(length).freeze();
        let mut from = Reader::new(&frame);
        let short = |_| FrameError::TooShort { bytes: length };
        let byte = from.u8("kind").map_err(short)?;
        let id = from.u64("request id").map_err(short)?;
        let kind = Kind::from_byte(byte).ok_or(FrameError::UnknownKind { byte })?;
        Ok(Frame { kind, id, payload: frame.slice_ref(from.rest()) })
    }
}

/// A message longer than a frame may be; it was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {bytes} bytes is longer than the {FRAME_BYTES_MAX} a frame takes")]
pub(super) struct TooLong {
    pub(super) bytes: usize,
}

/// Appends a frame to `out`; `payload` appends its payload. On an error `out` is as it was.
pub(super) fn put(out: &mut Vec<u8>, kind: Kind, id: u64, payload: impl FnOnce(&mut Vec<u8>)) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    with_writer(out, |out| {
        out.u8(kind.byte());
        out.u64(id);
    });
    payload(out);
    let bytes = out.len() - start - LENGTH_BYTES;
    match u32::try_from(bytes) {
        Ok(length) if bytes <= FRAME_BYTES_MAX => {
            out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
            Ok(())
        }
        Ok(_) | Err(_) => {
            out.truncate(start);
            Err(TooLong { bytes })
        }
    }
}

/// Lends a byte vector to a `Writer`.
pub(super) fn with_writer(out: &mut Vec<u8>, write: impl FnOnce(&mut Writer)) {
    let mut writer = Writer::over(std::mem::take(out));
    write(&mut writer);
    *out = writer.into_vec();
}

/// Empties a buffer that is used again and again, and gives back what one large message made it grow to.
pub(super) fn reset(out: &mut Vec<u8>) {
    const KEEP_BYTES: usize = 2 << 20;
    out.clear();
    out.shrink_to(KEEP_BYTES);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn read_all(mut bytes: &[u8], max: usize) -> (Vec<Frame>, FrameError) {
        let mut buffer = FrameBuffer::new(max);
        let mut frames = Vec::new();
        loop {
            match buffer.next(&mut bytes).await {
                Ok(frame) => frames.push(frame),
                Err(error) => return (frames, error),
            }
        }
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in_and_share_their_buffer() {
        let mut out = Vec::new();
        put(&mut out, Kind::Append, 300, |out| out.extend_from_slice(b"abc")).unwrap();
        put(&mut out, Kind::Working, 0, |_| {}).unwrap();
        let (frames, end) = read_all(&out, FRAME_BYTES_MAX).await;
        let first = Frame { kind: Kind::Append, id: 300, payload: Bytes::from_static(b"abc") };
        assert_eq!(frames, [first, Frame { kind: Kind::Working, id: 0, payload: Bytes::new() }]);
        assert!(matches!(end, FrameError::Closed));
    }

    #[tokio::test]
    async fn a_length_beyond_the_bound_is_refused_before_its_bytes_are_awaited() {
        let (_, error) = read_all(&u32::MAX.to_le_bytes(), FRAME_BYTES_MAX).await;
        assert!(matches!(error, FrameError::TooLong { bytes: 0xffff_ffff, max: FRAME_BYTES_MAX }), "{error}");
    }

    #[tokio::test]
    async fn a_promised_length_allocates_no_more_than_the_read_ahead() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let mut bytes = u32::try_from(FRAME_BYTES_MAX).unwrap().to_le_bytes().to_vec();
        bytes.push(1);
        tokio::io::AsyncWriteExt::write_all(&mut ours, &bytes).await.unwrap();
        drop(ours);
        let mut theirs = theirs;
        let mut buffer = FrameBuffer::new(FRAME_BYTES_MAX);
        assert!(matches!(buffer.next(&mut theirs).await, Err(FrameError::Truncated { .. })));
        assert!(buffer.bytes.capacity() <= 2 * READ_AHEAD_BYTES, "{}", buffer.bytes.capacity());
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_frame_is_truncated_not_closed() {
        let mut out = Vec::new();
        put(&mut out, Kind::Vote, 1, |out| out.extend_from_slice(b"abc")).unwrap();
        out.pop();
        assert!(matches!(read_all(&out, FRAME_BYTES_MAX).await.1, FrameError::Truncated { missing: 1 }));
    }

    #[test]
    fn a_message_longer_than_a_frame_leaves_the_buffer_as_it_was() {
        let mut out = b"before".to_vec();
        let error = put(&mut out, Kind::Forward, 1, |out| out.resize(out.len() + FRAME_BYTES_MAX, 0)).unwrap_err();
        assert_eq!((error.bytes, out.as_slice()), (FRAME_BYTES_MAX + 2, b"before".as_slice()));
    }

    proptest! {
        #[test]
        fn random_bytes_are_an_error_never_a_panic(bytes: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (_, _) = runtime.block_on(read_all(&bytes, FRAME_BYTES_MAX));
        }
    }
}
