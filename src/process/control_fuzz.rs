//! Fuzz target: control messages, from a peer that speaks another language.
//!
//! Not the first one, `Bootstrap`: on bytes that make no sense, `ipc-channel` panics when it takes the channels out. That
//! is the guardian's to receive, from the process that started it and nobody else, and would end the guardian.

use super::control::{Command, Reply};
use ipc_channel::ipc::{self, IpcSender};
use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

/// Bytes as they are on their way.
struct Raw(Vec<u8>);

/// As many as are read of a message: all of the one below.
const READ: usize = 3;

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Raw;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("bytes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Raw, A::Error> {
                let mut all = Vec::new();
                while let Some(byte) = bytes.next_element()? {
                    all.push(byte);
                }
                Ok(Raw(all))
            }
        }
        deserializer.deserialize_tuple(READ, Bytes)
    }
}

/// Receives as a `T` what was sent as bytes.
fn receive_as<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let Ok((sender, receiver)) = ipc::channel::<T>() else { panic!("no channel") };
    let sender: IpcSender<Raw> = sender.to_opaque().to();
    assert!(sender.send(Raw(bytes.to_vec())).is_ok());
    receiver.try_recv().ok()
}

#[test]
fn fuzz_control_messages() {
    bolero::check!().for_each(|bytes: &[u8]| {
        // Numbers of elements, lengths and descriptors that are not there.
        drop(receive_as::<Reply>(bytes).map(|reply| format!("{reply:?}")));
        drop(receive_as::<Command>(bytes).map(|command| format!("{command:?}")));
    });
}

#[cfg(test)]
mod tests {
    use super::super::control::Forked;
    use super::*;

    #[test]
    fn bytes_arrive_as_they_were_sent() {
        let (sender, receiver) = ipc::channel::<Reply>().unwrap();
        sender.send(Reply::Forked(Forked::Pid(77))).unwrap();
        let sent: Raw = receiver.to_opaque().to().recv().unwrap();
        let Some(Reply::Forked(forked)) = receive_as(&sent.0) else { panic!("{:?}", sent.0) };
        assert_eq!(forked, Forked::Pid(77));
    }
}
