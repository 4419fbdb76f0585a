/*
 * exit.c: from a fault to an exit code.
 */
#include "common/exit.h"

#include <errno.h>

enum srv_exit
srv_exit_of(const struct q_fault *fault)
{
    /* The one case that has no error of its own: a system call knows it, a caller can't act on it. */
    if (fault->sys_errno == EISDIR) return SRV_EXIT_IS_DIRECTORY;

    switch (fault->err) {
    case Q_OK:
        return SRV_EXIT_OK;
    case Q_E_PERMISSION:
        return SRV_EXIT_PERMISSION;
    case Q_E_CORRUPT:
        return SRV_EXIT_CORRUPT;
    case Q_E_LOCKED:
        return SRV_EXIT_LOCKED;
    case Q_E_ADDRESS_IN_USE:
        return SRV_EXIT_ADDRESS_IN_USE;
    case Q_E_FOREIGN:
        return SRV_EXIT_FOREIGN;
    case Q_E_NOT_DIRECTORY:
        return SRV_EXIT_NOT_DIRECTORY;
    case Q_E_NO_SPACE:
        return SRV_EXIT_NO_SPACE;
    case Q_E_VERSION:
        return SRV_EXIT_VERSION;
    case Q_E_BROKEN:
        return SRV_EXIT_BROKEN;
    default:
        return SRV_EXIT_FAILED;
    }
}

void
srv_exit_print_help(FILE *out)
{
#define EXIT_LINE(name, code, meaning) (void)fprintf(out, "  %2d  %s\n", code, meaning);
    SRV_EXIT_LIST(EXIT_LINE)
#undef EXIT_LINE
}
