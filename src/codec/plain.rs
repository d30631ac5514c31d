//! Types that are copied as bytes.
//!
//! # Rules
//! R1. A scalar type is plain only if every bit pattern is a value: numbers, not `bool` or `char`.
//! R2. The list is closed and compared by `TypeId`: a user's type with a `Serialize` of its own
//!     always goes through it. After monomorphisation the comparison is a constant.
//! R3. Tuples may contain padding, so they are written and read as a whole, never byte by byte.
//! R4. What another program may read is copied only if it is a number or a vector of them: how a tuple
//!     lies in memory is the compiler's to choose.
#![allow(unsafe_code)] // Copies values of the listed types.

use std::any::{Any, TypeId};
use std::mem::MaybeUninit;

/// A value read from bytes, if its type is plain.
#[derive(Debug, PartialEq)]
pub(crate) enum Read<T> {
    Value(T),
    WrongLength,
    NotPlain,
}

macro_rules! scalars {
    ($call:ident) => {
        $call! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 }
    };
}

macro_rules! is_one_of {
    ($($scalar:ident)*) => {
        /// Whether `T` is a listed number (R1).
        #[inline(always)]
        fn is_scalar<T: ?Sized + 'static>() -> bool {
            let id = TypeId::of::<T>();
            $(id == TypeId::of::<$scalar>())||*
        }

        /// Whether `T` is a pair that starts with `A`, or a triple or short array of `A`.
        #[inline(always)]
        fn is_group_of<A: 'static, T: 'static>() -> bool {
            let id = TypeId::of::<T>();
            $(id == TypeId::of::<(A, $scalar)>())||*
                || id == TypeId::of::<(A, A, A)>()
                || id == TypeId::of::<(A, A, A, A)>()
                || id == TypeId::of::<[A; 2]>()
                || id == TypeId::of::<[A; 3]>()
                || id == TypeId::of::<[A; 4]>()
        }

        /// Whether values of `T` are copied as they are (R2).
        #[inline(always)]
        pub(crate) fn is_plain<T: 'static>() -> bool {
            TypeId::of::<T>() == TypeId::of::<()>()
                || is_scalar::<T>()
                $(|| is_group_of::<$scalar, T>())*
        }

        /// The bytes of a vector of plain numbers, if `value` is one.
        #[inline(always)]
        fn vector_bytes<T: 'static>(value: &T) -> Option<&[MaybeUninit<u8>]> {
            let any: &dyn Any = value;
            $(if let Some(vector) = any.downcast_ref::<Vec<$scalar>>() {
                return Some(bytes_of_slice(vector));
            })*
            None
        }

        /// Whether `T` is a vector of plain numbers.
        #[inline(always)]
        pub(crate) fn is_vector<T: 'static>() -> bool {
            let id = TypeId::of::<T>();
            $(id == TypeId::of::<Vec<$scalar>>())||*
        }

        /// A vector of plain numbers from its bytes, if `T` is one.
        #[inline(always)]
        fn vector_from<T: 'static>(bytes: &[u8]) -> Read<T> {
            let mut value: Option<T> = None;
            let any: &mut dyn Any = &mut value;
            $(if let Some(place) = any.downcast_mut::<Option<Vec<$scalar>>>() {
                if !bytes.len().is_multiple_of(size_of::<$scalar>()) {
                    return Read::WrongLength;
                }
                *place = Some(copy_vector(bytes));
                return value.map_or(Read::NotPlain, Read::Value);
            })*
            Read::NotPlain
        }
    };
}

scalars!(is_one_of);

fn bytes_of_slice<T>(values: &[T]) -> &[MaybeUninit<u8>] {
    // SAFETY: the range is the slice's own memory; `MaybeUninit` allows for padding (R3).
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Copies bytes into a vector of numbers; the caller has checked that the length fits.
fn copy_vector<T>(bytes: &[u8]) -> Vec<T> {
    let count = bytes.len() / size_of::<T>();
    let mut vector = Vec::<T>::with_capacity(count);
    // SAFETY: `vector` has room for `count` values; T is a number, so any bytes are a value (R1).
    unsafe {
        std::ptr::copy_nonoverlapping(
            bytes.as_ptr(),
            vector.as_mut_ptr().cast(),
            count * size_of::<T>(),
        );
        vector.set_len(count);
    }
    vector
}

/// The bytes to copy for `value`, if its type is plain or a vector of plain numbers.
#[inline(always)]
pub(crate) fn bytes_of<T: 'static>(value: &T) -> Option<&[MaybeUninit<u8>]> {
    if is_plain::<T>() {
        return Some(bytes_of_slice(std::slice::from_ref(value)));
    }
    vector_bytes(value)
}

/// A value from the bytes that [`bytes_of`] gave.
#[inline(always)]
pub(crate) fn from_bytes<T: 'static>(bytes: &[u8]) -> Read<T> {
    if is_plain::<T>() {
        if bytes.len() != size_of::<T>() {
            return Read::WrongLength;
        }
        // SAFETY: the length is right, and any bytes are a value of a plain type (R1).
        return Read::Value(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() });
    }
    vector_from(bytes)
}

/// Whether `T` is a number.
#[inline(always)]
pub(crate) fn is_number<T: 'static>() -> bool {
    is_scalar::<T>()
}

/// As [`bytes_of`], for numbers alone (R4).
#[inline(always)]
pub(crate) fn portable_bytes_of<T: ?Sized + 'static>(value: &T) -> Option<&[MaybeUninit<u8>]> {
    if is_scalar::<T>() {
        let start = std::ptr::from_ref(value).cast::<MaybeUninit<u8>>();
        // SAFETY: the range is the value's own memory.
        return Some(unsafe { std::slice::from_raw_parts(start, size_of_val(value)) });
    }
    None
}

/// The bytes of a vector of plain numbers, if `value` is one.
#[inline(always)]
pub(crate) fn vector_bytes_of<T: 'static>(value: &T) -> Option<&[MaybeUninit<u8>]> {
    vector_bytes(value)
}

/// A value from the bytes that [`portable_bytes_of`] or [`vector_bytes_of`] gave.
#[inline(always)]
pub(crate) fn from_portable_bytes<T: 'static>(bytes: &[u8]) -> Read<T> {
    if is_scalar::<T>() { from_bytes(bytes) } else { vector_from(bytes) }
}

#[cfg(not(any(loom, shuttle)))]
#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_groups_of_them_are_plain_and_nothing_else() {
        assert!(
            is_plain::<u64>() && is_plain::<f32>() && is_plain::<(u8, f64)>() && is_plain::<()>()
        );
        assert!(is_plain::<(i32, i32, i32)>() && is_plain::<[f64; 3]>());
        assert!(!is_plain::<bool>() && !is_plain::<char>() && !is_plain::<Option<u8>>());
        assert!(!is_plain::<String>() && !is_plain::<&'static str>() && !is_plain::<Vec<u8>>());
    }

    #[test]
    fn a_wrong_length_is_refused() {
        assert_eq!(from_bytes::<u64>(&[0; 7]), Read::WrongLength);
        assert_eq!(from_bytes::<Vec<u32>>(&[0; 7]), Read::WrongLength);
        assert_eq!(from_bytes::<String>(&[0; 7]), Read::NotPlain);
    }

    proptest! {
        #[test]
        fn vectors_survive_a_round_trip(values: Vec<u32>) {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
            prop_assert_eq!(from_bytes::<Vec<u32>>(&bytes), Read::Value(values.clone()));
            prop_assert_eq!(bytes_of(&values).unwrap().len(), bytes.len());
        }
    }
}
