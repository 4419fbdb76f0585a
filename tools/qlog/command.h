/*
 * command.h: the commands of `qlog`, and what they share: options, the directory, errors, exit codes.
 *
 * stdout is for data, stderr for everything else. Nothing writes to a directory it looks at but
 * `repair` and `gc`, and these only with --apply.
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
    X(NOT_FOUND, 3, "no such directory, log, subject or message; nothing matched") \
    X(DENIED,    5, "not allowed to read or change it") \
    X(TORN,      7, "verify, repair: an unfinished end and nothing else; normal after a kill or power loss") \
    X(CORRUPT,   8, "damage below the durable mark, or logs that contradict each other") \
    X(LOCKED,   10, "another process has the directory open, and this needs it alone")
/* clang-format on */

enum tool_exit {
#define TOOL_EXIT_ENUM(name, code, meaning) TOOL_EXIT_##name = (code),
    TOOL_EXIT_LIST(TOOL_EXIT_ENUM)
#undef TOOL_EXIT_ENUM
};

struct command {
    const char *name;
    const char *arguments; /* "DIR SUBJECT" */
    const char *what;      /* one line */
    const char *more;      /* further lines of its help */
    const char *example;
    /* argv[0] is the command's name. */
    enum tool_exit (*run)(const struct command *command, int argc, char **argv);
    bool opens_all; /* also a directory that a store would not open */
};

enum tool_exit info_run(const struct command *command, int argc, char **argv);
enum tool_exit index_run(const struct command *command, int argc, char **argv);
enum tool_exit ls_run(const struct command *command, int argc, char **argv);
enum tool_exit dump_run(const struct command *command, int argc, char **argv);
enum tool_exit cat_run(const struct command *command, int argc, char **argv);
enum tool_exit grep_run(const struct command *command, int argc, char **argv);
enum tool_exit stat_run(const struct command *command, int argc, char **argv);
enum tool_exit track_run(const struct command *command, int argc, char **argv);
enum tool_exit gc_run(const struct command *command, int argc, char **argv);
enum tool_exit repair_run(const struct command *command, int argc, char **argv);
enum tool_exit verify_run(const struct command *command, int argc, char **argv);

enum {
    DIRECTORY_MAX = 4096,
    ARGUMENTS_MAX = 2, /* behind DIR */
};

/* What every command is told. */
struct command_line {
    char directory[DIRECTORY_MAX];        /* that of the store or log itself */
    const char *arguments[ARGUMENTS_MAX]; /* behind DIR */
    bool json;
};

/* The option that every command has. */
#define FORMAT_OPTION(variable)                                                                    \
    {                                                                                              \
        "output", 'o', Q_OPT_TEXT, &(variable), "FORMAT", "text or json (text)", 0, 0              \
    }

/*
 * Parse options and arguments: as many as `command->arguments` has words. True: go on. False:
 * `*ret_exit` is the exit code, and help or error have been printed. `format`: the variable of
 * FORMAT_OPTION.
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

/* A mistake in the command line that only the command itself can see. */
enum tool_exit usage_error(const struct command *command, const char *text);
/* Print this thread's last fault; returns the exit code of `err`. */
enum tool_exit report(enum q_err err, bool json);

/* A name as text: what is not printable is shown as \xNN. */
void print_name(FILE *out, struct q_bytes name);
/* Damage among the data, so that whoever reads it can't miss that something is missing. */
void print_damage(bool json, const struct qlog_damage *damage);
/* On stderr: where the reading ended, when that is not the clean end of a log. */
void print_end(const struct qlog_cursor *cursor);
/* The time now, in ms. */
uint64_t now_ms(void);

#endif /* QLOG_TOOL_COMMAND_H */
