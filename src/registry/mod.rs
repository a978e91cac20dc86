//! Conversations with image registries (OCI distribution specification).
