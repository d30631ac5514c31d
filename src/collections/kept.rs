//! What can be kept in a collection, and in which forms a key can be given.

use serde::{Serialize, de::DeserializeOwned};

/// What can be a key or a value: any `serde` type that borrows nothing.
pub trait Kept: Serialize + DeserializeOwned + 'static {}

impl<T: Serialize + DeserializeOwned + 'static> Kept for T {}

/// A form in which a key of type `K` can be given: `K` itself; `str` for `String`; a slice for a `Vec`.
///
/// Not whatever `K` borrows as: keys are compared by their encoding, and that of an array is another
/// than that of a slice.
pub trait KeyFor<K>: Serialize + sealed::Sealed<K> + 'static {}

mod sealed {
    pub trait Sealed<K> {}

    impl<K> Sealed<K> for K {}
    impl Sealed<String> for str {}
    impl<T> Sealed<Vec<T>> for [T] {}
}

impl<K: Kept> KeyFor<K> for K {}
impl KeyFor<String> for str {}
impl<T: Kept> KeyFor<Vec<T>> for [T] {}
