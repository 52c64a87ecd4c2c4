"""The parts of the guest image's builder. Start reading at ../build_guest_image.py."""
