//! Picket's agent as a library, so that the binary and the tests compose the same parts.
//!
//! The modules stand in the order a request passes them; a stage imports only stages before it.

pub mod cluster;

pub mod endpoints;

pub mod pki;

pub mod workload;

pub mod notify;

pub mod metrics;

pub mod kernel;

pub mod listener;

mod upgrade;

mod enforce;

pub mod tls;

pub mod store;

pub mod identity;

pub mod upstream;

pub mod audit;

mod denied;

pub mod reject;

pub mod session;

pub mod pipeline;

pub mod runtime;

pub mod admin;

pub mod config;

pub mod app;

pub mod cli;
