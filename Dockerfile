FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/tocsin ./cmd/tocsin && mkdir /out/data

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/tocsin /usr/local/bin/tocsin
# A volume that is mounted here takes over the owner.
COPY --from=build --chown=nonroot:nonroot /out/data /var/lib/tocsin
VOLUME /var/lib/tocsin
ENTRYPOINT ["/usr/local/bin/tocsin"]
CMD ["run", "--data", "/var/lib/tocsin"]
