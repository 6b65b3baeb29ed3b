# One node of Covey. BUILDER is an image with Go; where no registry can be
# reached, any local one with a shell and the toolchain will do.
ARG BUILDER=golang:1.26
FROM ${BUILDER} AS build
ARG VERSION=dev
ENV CGO_ENABLED=0
WORKDIR /src
COPY . .
RUN go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/covey ./cmd/covey && mkdir -m 0700 /out/data

FROM scratch
COPY --from=build /out/covey /covey
COPY --from=build --chown=65532:65532 /out/data /var/lib/covey
# Where a volume with the cluster's secret may go.
COPY --from=build --chown=65532:65532 /out/data /secret
# There is no /tmp here; SQLite keeps what it spills beside the data.
ENV SQLITE_TMPDIR=/var/lib/covey COVEY_NODE_DATA=/var/lib/covey
USER 65532:65532
VOLUME /var/lib/covey
# Mail, metrics, gossip and the links between nodes.
EXPOSE 25 587 465 143 993 110 995 24 9925 7946 7946/udp 7947
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["/covey", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/covey"]
CMD ["serve"]
