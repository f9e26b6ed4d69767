import subprocess
import sys


def test_reading_and_checking_data_needs_none_of_the_heavy_libraries():
    code = "import sys, mamba_unet.data; print(sorted({'torch', 'lightning', 'nibabel', 'h5py'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
