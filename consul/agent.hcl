# One server that is its own cluster. It remembers nothing over a restart of its container, and need not: each
# service notices that it was forgotten and registers again.
server           = true
bootstrap_expect = 1
data_dir         = "/consul/data"

# Where it answers inside the network of its containers. It asks for no token, so it must not be reachable from
# outside; docker-compose.yml publishes the port on loopback only.
client_addr = "0.0.0.0"

# A lost leader is replaced after about a second; fit for a network without delays.
performance {
  raft_multiplier = 1
}

# For /v1/agent/metrics?format=prometheus, which Prometheus scrapes.
telemetry {
  prometheus_retention_time = "60s"
  disable_hostname          = true
}

disable_update_check = true
log_level            = "WARN"
