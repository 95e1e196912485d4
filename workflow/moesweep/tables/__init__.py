"""The answers: small tables and the study's summary, made from the results of the stages before."""
