// Gives the precompiled LibTorch header an owner: a translation unit that includes LibTorch alone takes 20 s.
