# One file for all services: `docker build --build-arg SERVICE=users .`
# The bases can be replaced where no registry can be reached.
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

# The workspace with every source file emptied. It changes only when a manifest does, or when a program or a library
# is added, so what is built from it stays cached.
FROM ${BUILD_IMAGE} AS manifests
WORKDIR /src
COPY . .
RUN find . -type f ! -name Cargo.toml ! -name Cargo.lock ! -path '*/benches/*.rs' -delete \
 && find . -type f -name '*.rs' | while read -r file; do printf '//! Emptied.\nfn main() {}\n' > "$file"; done \
 && find . -mindepth 2 -name Cargo.toml | while read -r file; do \
      mkdir -p "${file%/*}/src" && echo '//! Emptied.' > "${file%/*}/src/lib.rs" \
      && printf '//! Emptied.\nfn main() {}\n' > "${file%/*}/src/main.rs"; done \
 && find . -type d -empty -delete

FROM ${BUILD_IMAGE} AS build
# `release`, or `dev` to build faster what runs slower.
ARG PROFILE=release
WORKDIR /src
COPY --from=manifests /src .
RUN cargo build --locked --profile "$PROFILE" $(ls services | sed 's/^/--package /')
COPY . .
# The copies may be older than what was built from the empty files, and cargo goes by time. What the services are
# not built from is not copied, but the workspace names it.
RUN find kit services -type f -exec touch {} + \
 && cargo build --locked --profile "$PROFILE" $(ls services | sed 's/^/--package /') \
 && mkdir /out \
 && for service in $(ls services); do cp "target/$([ "$PROFILE" = dev ] && echo debug || echo "$PROFILE")/$service" /out; done

FROM ${RUNTIME_IMAGE}
RUN useradd --system --uid 10001 --no-create-home kit && install -d -o kit -g kit /data
ARG SERVICE
COPY --from=build /out/${SERVICE} /usr/local/bin/service
USER kit
ENV KIT_DATA=/data
VOLUME /data
# Without curl in the image: bash opens the connection. The admin port is the port plus 1000.
HEALTHCHECK --interval=5s --timeout=2s --start-period=5s CMD ["bash", "-c", \
  "exec 3<>/dev/tcp/127.0.0.1/$((${KIT_SERVER__LISTEN##*:} + 1000)) && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["service"]
