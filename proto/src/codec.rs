//! How messages become bytes: as `tonic-prost` does it, with buffers that begin small.
//!
//! tonic's own begin with 8 KiB for each direction of each call. An agent's stream is a call that lives as long as the
//! agent and says little: there, these would be a third of what the agent costs the server. They grow to what a message
//! needs.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Octets that a buffer begins with: most messages.
const INITIAL: usize = 512;
/// Octets of small messages that are gathered before they are handed to HTTP/2: as tonic has it.
const GATHERED: usize = 32 * 1024;

/// The codec of all services and clients of this crate; `application/grpc+proto`.
#[derive(Debug, Clone)]
pub struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(INITIAL, GATHERED))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(INITIAL, GATHERED))
    }
}
