//! TLS and DTLS as pipeline stages. Nothing is here yet: the stages are still to be written.
#![forbid(unsafe_code)]
