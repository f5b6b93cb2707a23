# The image of the bootstrap container: that of ../Dockerfile with another command.
ARG IMAGE=eni-sync
FROM $IMAGE
ENTRYPOINT ["/plugins/eni-sync", "attach", "--config", "/.bottlerocket/bootstrap-containers/current/user-data"]
