//! What a server tells about its requests.
