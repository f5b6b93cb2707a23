#!/bin/sh
# User data of an EKS node with Amazon Linux 2023 or Ubuntu: attaches its ENIs before the kubelet
# starts. On Amazon Linux 2023 it is a part of type text/x-shellscript beside the NodeConfig, and
# nodeadm starts the kubelet afterwards. On Ubuntu it starts the kubelet itself. The kubelet starts
# whatever fails before: an agent attaches later what is missing.
set -u
ARCHIVE=https://example.com/eni-cni.tar.gz
CLUSTER=my-cluster

# The archive has one directory, and eni-sync in it.
install_eni_sync() {
    mkdir -p /opt/cni/bin &&
        file=$(mktemp) &&
        curl -fsS --connect-timeout 10 --max-time 60 --retry 3 -o "$file" "$ARCHIVE" &&
        tar -xzf "$file" -C /opt/cni/bin --strip-components=1 \
            --wildcards --no-wildcards-match-slash '*/eni-sync' &&
        rm -f "$file"
}

configure() {
    mkdir -p /etc/eni-sync && cat >/etc/eni-sync/agent.json <<'JSON'
{
  "networks": "auto",
  "enis": [
    {
      "name": "user-plane",
      "subnets": { "tags": { "eni-cni/network": "user-plane" } },
      "securityGroups": { "tags": { "eni-cni/network": "user-plane" } }
    }
  ]
}
JSON
}

install_eni_sync && configure && /opt/cni/bin/eni-sync attach --config /etc/eni-sync/agent.json ||
    echo "the ENIs of this node are not attached" >&2

. /etc/os-release
if [ "$ID" = ubuntu ]; then
    exec /etc/eks/bootstrap.sh "$CLUSTER"
fi
exit 0
