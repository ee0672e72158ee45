# The operator's image: the static binary and nothing else. The build context is a folder that holds that binary.
FROM scratch
LABEL org.opencontainers.image.title="xmpp-federation-operator" \
      org.opencontainers.image.description="Kubernetes operator for XMPP federation of Cisco Unified CM IM and Presence" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY xmpp-federation-operator /xmpp-federation-operator
USER 65532:65532
ENTRYPOINT ["/xmpp-federation-operator"]
