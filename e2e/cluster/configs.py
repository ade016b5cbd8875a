"""Configuration of the node's programs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

# Equal in every cluster: each has a network namespace of its own.
NODE = "node0"
NODE_IP = "172.30.0.2"
GATEWAY = "172.30.0.1"
POD_NET = "10.244.0.0/16"
SERVICE_NET = "10.96.0.0/16"
API_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"

# Where the operator runs and as whom: what it does is audited in full.
SYSTEM = "postgres-operator-system"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:postgres-operator-controller-manager"

HYPERKUBE = frozenset(
    ("coredns", "etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet")
)


def apiserver(work: Path, pki: Path) -> list[str]:
    return [
        "--etcd-servers=http://127.0.0.1:2379",
        f"--advertise-address={NODE_IP}",
        f"--service-cluster-ip-range={SERVICE_NET}",
        f"--cert-dir={pki}",
        f"--tls-cert-file={pki}/api.crt",
        f"--tls-private-key-file={pki}/api.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--token-auth-file={pki}/tokens.csv",
        # logs, exec and port-forward: the API server is a client of the kubelet
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        *service_accounts(pki),
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--audit-policy-file={work}/audit.yaml",
        f"--audit-log-path={work}/log/audit.log",
        # an entry is on disk when the answer goes out: tests read it at once, and a kill loses none
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=200",
    ]


def service_accounts(pki: Path) -> list[str]:
    return [
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/service-accounts.key",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
    ]


def audit_policy() -> dict[str, Any]:
    """Who wrote what, without contents, and all requests of the operator; the first rule that fits counts."""
    writes = ["create", "update", "patch", "delete", "deletecollection"]
    leases = [{"group": "coordination.k8s.io", "resources": ["leases"]}]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            # with contents: they say who led when
            {"level": "Request", "verbs": writes, "resources": leases, "namespaces": [SYSTEM]},
            {"level": "Metadata", "users": [ACCOUNT]},
            {"level": "None", "verbs": ["get", "list", "watch"]},
            {"level": "Metadata"},
        ],
    }


def controller_manager(pki: Path) -> list[str]:
    return [
        f"--kubeconfig={pki}/kube-controller-manager.conf",
        "--leader-elect=false",
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/service-accounts.key",
        "--use-service-account-credentials",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
    ]


def containerd(work: Path) -> str:
    return textwrap.dedent(f"""\
        version = 2
        root = "{work}/containerd"
        [plugins."io.containerd.grpc.v1.cri"]
          sandbox_image = "localhost/pause:1"
          restrict_oom_score_adj = true  # lowering it takes a privilege that containers lack
          [plugins."io.containerd.grpc.v1.cri".cni]
            bin_dir = "/usr/lib/cni"
            conf_dir = "{work}/cni"
          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
            runtime_type = "io.containerd.runc.v2"
        """)


def cni() -> dict[str, Any]:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": "/run/cni-ipam",
            "ranges": [[{"subnet": POD_NET}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, portmap]}


def kubelet(work: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{work.name}",  # one place to clean up
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "maxPods": 250,
        "clusterDNS": [DNS_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": f"{work}/pki/ca.crt"},
        },
        # only clients with a certificate of this throw-away authority get here
        "authorization": {"mode": "AlwaysAllow"},
        # the host's disk is not ours to judge, and images could not be pulled again
        "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "volumePluginDir": f"{work}/kubelet/volume-plugins",
    }


def kube_proxy(pki: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{pki}/kube-proxy.conf"},
        "clusterCIDR": POD_NET,
        "mode": "iptables",
        "iptables": {"minSyncPeriod": "100ms"},
        "conntrack": {"maxPerCore": 0},
        "hostnameOverride": NODE,
    }


def coredns(kubeconfig: Path) -> str:
    return textwrap.dedent(f"""\
        .:53 {{
            bind {NODE_IP}
            errors
            kubernetes cluster.local in-addr.arpa {{
                kubeconfig {kubeconfig}
                ttl 2
            }}
            cache 2
        }}
        """)


def dns_service() -> list[dict[str, Any]]:
    """CoreDNS is a process of the node: a Service without a selector leads to it."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    meta = {"namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**meta, "name": "kube-dns", "labels": {"k8s-app": "kube-dns"}},
            "spec": {"clusterIP": DNS_IP, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**meta, "name": "kube-dns-node"},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [NODE_IP]}],
            "ports": ports,
        },
    ]
