//! What the generated bindings need beside themselves: the host's way to our memory, static constructors, flags.
//!
//! A small equivalent of wit-bindgen's own runtime, so that a recipe has no dependency. Absent: resources and async,
//! which the contract does not use.

use std::alloc::{alloc, Layout};

/// Where the bindings look for the macro.
pub mod bitflags {
    pub use crate::bitflags_macro as bitflags;
}

/// Flags as a struct of bits.
#[doc(hidden)]
#[macro_export]
macro_rules! bitflags_macro {
    (
        $(#[$attr:meta])*
        $vis:vis struct $name:ident : $repr:ty {
            $($(#[$flag_attr:meta])* const $flag:ident = $val:expr;)*
        }
    ) => {
        $(#[$attr])*
        $vis struct $name {
            bits: $repr,
        }

        impl $name {
            $($(#[$flag_attr])* $vis const $flag: Self = Self { bits: $val };)*
            $vis fn empty() -> Self {
                Self { bits: 0 }
            }

            $vis fn bits(&self) -> $repr {
                self.bits
            }
        }

        impl core::ops::BitOr<$name> for $name {
            type Output = Self;
            fn bitor(self, rhs: $name) -> $name {
                Self { bits: self.bits | rhs.bits }
            }
        }
    };
}

/// The host asks for room in our memory, or for more of it.
///
/// # Safety
/// By the canonical ABI: `old` is ours and of that size, or the size is 0.
#[export_name = "cabi_realloc"]
pub unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    if size == 0 {
        return align as *mut u8;
    }
    let layout = Layout::from_size_align_unchecked(if old_size == 0 { size } else { old_size }, align);
    let found = if old_size == 0 { alloc(layout) } else { std::alloc::realloc(old, layout, size) };
    if found.is_null() {
        core::arch::wasm32::unreachable();
    }
    found
}

/// Named by the bindings so that the linker keeps what the host calls.
pub fn maybe_link_cabi_realloc() {
    #[used]
    static KEEP: unsafe extern "C" fn(*mut u8, usize, usize, usize) -> *mut u8 = cabi_realloc;
}

/// Runs what the linker collected, before the first export does anything.
pub fn run_ctors_once() {
    extern "C" {
        fn __wasm_call_ctors();
    }
    static mut RUN: bool = false;
    // SAFETY: a component has one thread, and the linker makes this function.
    unsafe {
        if !RUN {
            RUN = true;
            __wasm_call_ctors();
        }
    }
}

/// Room for a value on its way to the host. Never given back: the instance ends with the call.
pub struct Cleanup;

impl Cleanup {
    /// Room of this layout.
    pub fn new(layout: Layout) -> (*mut u8, Option<Cleanup>) {
        if layout.size() == 0 {
            return (layout.align() as *mut u8, None);
        }
        // SAFETY: the size is not 0.
        let found = unsafe { alloc(layout) };
        if found.is_null() {
            core::arch::wasm32::unreachable();
        }
        (found, Some(Cleanup))
    }

    /// The value outlives this.
    pub fn forget(self) {}
}
