module github.com/muster-edge/muster/e2e/bench

go 1.26.0

require golang.org/x/sys v0.47.0

require github.com/stretchr/testify v1.12.1

require go.yaml.in/yaml/v3 v3.0.5 // indirect
