
/// The same as the trait that the service implements, calling as __wire__.
pub fn __wire__(source: &Source, config: ClientConfig) -> Result<__Trait__Client<Client>, InvalidName> {
    Ok(__Trait__Client::__wire__(connect(source, config)?))
}
