/*
 * dev.c: `qmq dev` becomes qmqd, so that its process id is the node's.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"

#define BUILD_TREE_FOLDER "/tools/qmq"
#define BUILD_TREE_SERVER "../../servers/qmqd"

static void exec_beside(const char *name, char **argv);

int
dev_run(const struct command *command, int argc, char **argv)
{
    const char *directory = "./qmq-data";
    uint64_t port_base = 20880;
    const struct q_opt options[] = {
        { "dir", 0, Q_OPT_TEXT, &directory, "DIR", "data directory (./qmq-data)", 0, 0 },
        { "port-base", 0, Q_OPT_NUMBER, &port_base, "N",
          "port of meta; the broker's is N+1 (20880)", 0, 0 },
    };
    /* qmqd knows the options and their mistakes; here they are only shown. */
    for (int index = 1; index < argc; index++) {
        if (strcmp(argv[index], "--help") != 0 && strcmp(argv[index], "-h") != 0) continue;
        command_print_help(stdout, command, options, sizeof(options) / sizeof(options[0]));
        return EXIT_OK;
    }

    char **arguments = calloc((size_t)argc + 2, sizeof(char *));
    if (!arguments) {
        (void)Q_FAIL(Q_E_NOMEM);
        return report_error("start a node");
    }
    arguments[0] = (char *)"qmqd";
    arguments[1] = (char *)"--dev";
    for (int index = 1; index < argc; index++)
        arguments[index + 1] = argv[index];

    exec_beside("qmqd", arguments);
    (void)execvp("qmqd", arguments);
    (void)Q_FAIL(
        errno == ENOENT ? Q_NOT_FOUND : q_err_from_errno(errno), .sys = errno, .path = "qmqd",
        .what = "neither beside this program nor on PATH",
        .hint = "install it, or build all: ninja -C build");
    free(arguments);
    return report_error("start a node");
}

/* Returns when there is none beside this program, nor where a build tree has it. */
static void
exec_beside(const char *name, char **argv)
{
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (length <= 0) return;
    path[length] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash) return;

    *slash = '\0';
    (void)execv(q_text("%s/%s", path, name), argv);
    size_t folder = strlen(BUILD_TREE_FOLDER);
    size_t size = strlen(path);
    if (size < folder || strcmp(path + size - folder, BUILD_TREE_FOLDER) != 0) return;
    (void)execv(q_text("%s/%s", path, BUILD_TREE_SERVER), argv);
}
