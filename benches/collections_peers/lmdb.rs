//! LMDB: an ordered map in a file that processes share by mapping it, here a file in memory.
//!
//! Each call is a transaction of its own, as each call of a `Dict` is. Nothing is ever written back
//! (`NO_SYNC`), and pages are changed where they lie (`WRITE_MAP`), which is LMDB at its fastest. Keys
//! are bytes in the order of `memcmp`; values go through the codec that procpool uses.
#![allow(unsafe_code)] // A map in a file that others could change is unsafe to open.

use crate::collections_rows::Key;
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions};
use std::marker::PhantomData;
use tempfile::TempDir;

const PLACE: &str = "/dev/shm";
const MAP_BYTES: usize = 256 << 20;
/// A value's encoded size at most.
const VALUE_BYTES_MAX: usize = 128;

/// A map of its own, which is gone when it is dropped.
pub(crate) struct Lmdb<K> {
    env: Env,
    database: Database<Bytes, Bytes>,
    _folder: TempDir,
    _keys: PhantomData<fn(K)>,
}

impl<K: Key> Lmdb<K> {
    /// An empty map; `None` if there is no file system in memory.
    pub(crate) fn new() -> Option<Self> {
        let folder = tempfile::tempdir_in(PLACE).ok()?;
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES);
        // SAFETY: the folder is new, and nobody else knows it. What the flags give up is safety when
        // the machine goes down, after which a file in memory is gone anyway.
        let env = unsafe {
            options.flags(EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP);
            options.open(folder.path())
        };
        let env = env.expect("a map in an empty folder");
        let mut transaction = env.write_txn().expect("a transaction");
        let database = env.create_database(&mut transaction, None).expect("a database");
        transaction.commit().expect("a commit");
        Some(Self { env, database, _folder: folder, _keys: PhantomData })
    }

    pub(crate) fn get(&self, key: &K) -> Option<K::Value> {
        let transaction = self.env.read_txn().expect("a transaction");
        let found = key.with_bytes(|key| self.database.get(&transaction, key));
        let bytes = found.expect("a map that can be read")?;
        Some(postcard::from_bytes(bytes).expect("a value that was encoded"))
    }

    /// Does not look for the old value, which a `Dict` returns.
    pub(crate) fn insert(&self, key: &K, value: &K::Value) {
        let mut room = [0; VALUE_BYTES_MAX];
        let bytes = postcard::to_slice(value, &mut room).expect("a value of at most that size");
        let mut transaction = self.env.write_txn().expect("a transaction");
        let put = key.with_bytes(|key| self.database.put(&mut transaction, key, bytes));
        put.expect("room in the map");
        transaction.commit().expect("a commit");
    }

    pub(crate) fn clear(&self) {
        let mut transaction = self.env.write_txn().expect("a transaction");
        self.database.clear(&mut transaction).expect("a map that can be written");
        transaction.commit().expect("a commit");
    }

    pub(crate) fn len(&self) -> u64 {
        let transaction = self.env.read_txn().expect("a transaction");
        self.database.len(&transaction).expect("a map that can be read")
    }
}
