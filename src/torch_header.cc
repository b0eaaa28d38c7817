// Gives the precompiled LibTorch header an owner: a translation unit that includes torch/torch.h alone takes 20 s.
