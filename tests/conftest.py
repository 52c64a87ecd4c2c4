"""What every tier of tests needs: ``ansible.module_utils.kumo`` is the repository's ``module_utils/kumo``."""

from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(ROOT / "module_utils"))
