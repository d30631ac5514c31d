//! `ipc-channel`: the channels between processes that Rust programs use today, over Unix sockets.
//!
//! The sender is here, the receiver in the stage's other process, where it stays between two acts: it
//! cannot cross as a part of a task's argument.

use crate::collections_rows::queue::{Load, Sum};
use crate::sync_peers::stage::{Act, Board, Stage};
use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender};
use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::time::Duration;

/// A value that has a place for its channel's receiver in the other process.
pub(crate) trait ChannelLoad: Load {
    fn receiver() -> &'static Mutex<Option<IpcReceiver<Self>>>;
}

impl ChannelLoad for u64 {
    fn receiver() -> &'static Mutex<Option<IpcReceiver<Self>>> {
        static RECEIVER: Mutex<Option<IpcReceiver<u64>>> = Mutex::new(None);
        &RECEIVER
    }
}

impl ChannelLoad for Vec<u8> {
    fn receiver() -> &'static Mutex<Option<IpcReceiver<Self>>> {
        static RECEIVER: Mutex<Option<IpcReceiver<Vec<u8>>>> = Mutex::new(None);
        &RECEIVER
    }
}

/// The other process makes a channel and leaves its sender with a server of this process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
struct Meet<T> {
    server: String,
    #[serde(skip)]
    _value: std::marker::PhantomData<fn() -> T>,
}

impl<T: ChannelLoad> Act for Meet<T> {
    fn here(&self, _: &Board, _: u64) -> Option<Duration> {
        None
    }

    fn there(&self, _: &Board, _: u64) {
        let server = IpcSender::<IpcSender<T>>::connect(self.server.clone()).expect("a server");
        let (sender, receiver) = ipc::channel().expect("a channel");
        server.send(sender).expect("a server that lives");
        *T::receiver().lock().unwrap() = Some(receiver);
    }
}

/// Values from this process to the other one, one by one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Channel<T: ChannelLoad> {
    /// `None` in the other process.
    #[serde(skip)]
    sender: Option<IpcSender<T>>,
}

impl<T: ChannelLoad> Channel<T> {
    /// A channel between the stage's processes.
    pub(crate) fn new(stage: &Stage) -> Self {
        let (server, name) = IpcOneShotServer::<IpcSender<T>>::new().expect("a server");
        stage.run(&Meet::<T> { server: name, _value: std::marker::PhantomData }, 1);
        let (_, sender) = server.accept().expect("the other process's sender");
        Self { sender: Some(sender) }
    }
}

impl<T: ChannelLoad> Act for Channel<T> {
    fn here(&self, _: &Board, calls: u64) -> Option<Duration> {
        let sender = self.sender.as_ref().expect("the sender stays in this process");
        for number in 0..calls {
            sender.send(T::of(number)).expect("a receiver");
        }
        None
    }

    fn there(&self, _: &Board, calls: u64) {
        let receiver = T::receiver().lock().unwrap();
        let receiver = receiver.as_ref().expect("a channel that was made");
        let mut sum = Sum::default();
        for _ in 0..calls {
            sum.add(&receiver.recv().expect("a value"));
        }
        sum.check(0..calls);
    }
}
