//! What names mean in a file of Rust, as far as its own text tells.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Item, UseTree};

use super::{Method, Source};

impl Source {
    /// Where the names that a method mentions come from, as seen from another file of the crate. Those of the
    /// language itself, and those that are not found, are left out.
    pub(crate) fn origins(&self, methods: &[&Method]) -> BTreeMap<String, String> {
        let imports = self.imports();
        let defined = self.defined();
        let mentions = methods.iter().flat_map(|method| &method.mentions);
        mentions
            .filter_map(|name| {
                let origin = match imports.get(name) {
                    Some(path) => absolute(path, &self.module),
                    None if defined.contains(name) => format!("{}::{name}", self.module),
                    None => return None,
                };
                Some((name.clone(), origin))
            })
            .collect()
    }

    /// The names that methods mention and that have no meaning in this file.
    pub(crate) fn unknown(&self, methods: &[Method]) -> BTreeSet<String> {
        let known = (self.imports(), self.defined());
        let mentions = methods.iter().flat_map(|method| &method.mentions);
        mentions
            .filter(|name| !known.0.contains_key(*name) && !known.1.contains(*name))
            .cloned()
            .collect()
    }

    /// Whether `name` means something in this file, as far as one can see.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.imports().contains_key(name) || self.defined().contains(name)
    }

    /// What `use` at the top of the file brings, by the name that it has here.
    fn imports(&self) -> BTreeMap<String, String> {
        fn walk(tree: &UseTree, before: &str, found: &mut BTreeMap<String, String>) {
            let path = |name: &syn::Ident| match before {
                "" => name.to_string(),
                _ => format!("{before}::{name}"),
            };
            match tree {
                UseTree::Path(tree) => walk(&tree.tree, &path(&tree.ident), found),
                UseTree::Name(tree) if tree.ident == "self" => {
                    let name = before.rsplit("::").next().unwrap_or(before);
                    found.insert(name.to_owned(), before.to_owned());
                }
                UseTree::Name(tree) => {
                    found.insert(tree.ident.to_string(), path(&tree.ident));
                }
                UseTree::Rename(tree) => {
                    found.insert(
                        tree.rename.to_string(),
                        format!("{} as {}", path(&tree.ident), tree.rename),
                    );
                }
                UseTree::Group(group) => {
                    for tree in &group.items {
                        walk(tree, before, found);
                    }
                }
                UseTree::Glob(_) => {}
            }
        }
        let mut found = BTreeMap::new();
        for item in &self.file.items {
            if let Item::Use(item) = item {
                walk(&item.tree, "", &mut found);
            }
        }
        found
    }

    /// The types that are defined at the top of the file.
    fn defined(&self) -> BTreeSet<String> {
        let name = |item: &Item| {
            Some(match item {
                Item::Struct(item) => item.ident.to_string(),
                Item::Enum(item) => item.ident.to_string(),
                Item::Union(item) => item.ident.to_string(),
                Item::Type(item) => item.ident.to_string(),
                Item::Trait(item) => item.ident.to_string(),
                _ => return None,
            })
        };
        self.file.items.iter().filter_map(name).collect()
    }
}

/// A path as it is in `module`, as it is anywhere in the crate.
fn absolute(path: &str, module: &str) -> String {
    if let Some(rest) = path.strip_prefix("self::") {
        return format!("{module}::{rest}");
    }
    let (mut path, mut module) = (path, module);
    while let Some(rest) = path.strip_prefix("super::") {
        module = module
            .rsplit_once("::")
            .map_or(module, |(parent, _)| parent);
        path = rest;
        if !path.starts_with("super::") {
            return format!("{module}::{path}");
        }
    }
    path.to_owned()
}
