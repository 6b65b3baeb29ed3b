// Package containers tests what deploy has for containers: the manifests against
// Kubernetes' schemas always; and, where COVEY_CONTAINERS is set and a Docker
// engine answers, the compose file by bringing it up.
//
// builder.sh makes the image that the Dockerfile builds in out of this machine's own
// Go, so that no registry is needed.
package containers
