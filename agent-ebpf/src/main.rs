//! Picket's kernel programs: one file per hook.
//!
//! In: connects, binds and packets of every task below the cgroup that the programs are attached to. Out: connects that end at
//! the pod's own listener or fail, packets that are dropped, and events and counts for the agent.
//!
//! The agent's build script compiles this for `bpfel-unknown-none`. For any other target it is an empty program; clippy reads
//! it there too.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(any(target_arch = "bpf", clippy))]
mod hooks;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier denies a program that could come here, because it does not end.
    loop {}
}
