"""What is to be served: the deployment file as models, reading and checking it, and the records it leaves."""
