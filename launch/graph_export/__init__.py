"""Exports a model of transformers as graphs of operators: src/graph/FORMAT.md describes what comes out.

  model_source   config.json -> config, class, model without weights
  shrink         a small sibling of a config
  provenance     which tensors depend on the tokens, and on which block
  calls          how a block is called, and a block as a function of its inputs alone
  probe          what the small sibling says about the blocks' inputs and outputs
  hollow         parameters of any size without memory
  capture        one pass of the full model with stand-ins for its blocks; kinds of blocks
  operators      our operators, registered with torch and transformers
  mixtures       mixtures of experts that transformers computes in a way of their own
  trace          torch.export, without the ways that models take only while exporting
  lower, fold    a traced graph without regions, checks, dead code and constant parts
  encode, cost   a graph as JSON, with bytes and FLOPs
  interpret      runs that JSON in Python
  ends           embedding and head
  disk_names     tensors on disk as parts of parameters
  roles          which of them are linear layers, routers, ...
  check          transformers compared with the graphs, on the small sibling
  folder         writes the files
  export         all of it in order
"""
