/*
 * command.h: the commands of `qlog`, and what they share: options, the directory, errors, exit codes.
 *
 * stdout is for data, stderr for everything else. Nothing here writes to a directory it looks at.
 */
#ifndef QLOG_TOOL_COMMAND_H
#define QLOG_TOOL_COMMAND_H

#include <qbase/opts.h>
#include <qlog/cursor.h>

/* TOOL_EXIT_LIST(X): X(NAME, code, meaning). Scripts act on them; those of `qmq` mean the same. */
/* clang-format off */
#define TOOL_EXIT_LIST(X) \
    X(OK,        0, "everything is right") \
    X(FAILED,    1, "it could not look: no store or log there, or it can't be read") \
    X(USAGE,     2, "wrong command line") \
    X(NOT_FOUND, 3, "no such directory or log") \
    X(DENIED,    5, "not allowed to read it") \
    X(TORN,      7, "verify: an unfinished end and nothing else; normal after a kill or power loss") \
    X(CORRUPT,   8, "damage below the durable mark")
/* clang-format on */

enum tool_exit {
#define TOOL_EXIT_ENUM(name, code, meaning) TOOL_EXIT_##name = (code),
    TOOL_EXIT_LIST(TOOL_EXIT_ENUM)
#undef TOOL_EXIT_ENUM
};

struct command {
    const char *name;
    const char *what; /* one line */
    const char *more; /* further lines of its help */
    /* argv[0] is the command's name. */
    enum tool_exit (*run)(const struct command *command, int argc, char **argv);
};

enum tool_exit dump_run(const struct command *command, int argc, char **argv);
enum tool_exit verify_run(const struct command *command, int argc, char **argv);

enum {
    DIRECTORY_MAX = 4096
};

/* What every command is told. */
struct command_line {
    char directory[DIRECTORY_MAX]; /* that of the store or log itself */
    bool json;
};

/* The option that every command has. */
#define FORMAT_OPTION(variable)                                                                    \
    {                                                                                              \
        "output", 'o', Q_OPT_TEXT, &(variable), "FORMAT", "text or json (text)", 0, 0              \
    }

/*
 * Parse options and the directory. True: go on. False: `*ret_exit` is the exit code, and help or
 * error have been printed. `format`: the variable of FORMAT_OPTION.
 */
bool command_parse(
    const struct command *command,
    const struct q_opt *options,
    size_t option_count,
    const char *const *format,
    int argc,
    char **argv,
    struct command_line *ret_line,
    enum tool_exit *ret_exit);

/* Print this thread's last fault; returns the exit code of `err`. */
enum tool_exit report(enum q_err err, bool json);

/* A name as text: what is not printable is shown as \xNN. */
void print_name(FILE *out, struct q_bytes name);

#endif /* QLOG_TOOL_COMMAND_H */
