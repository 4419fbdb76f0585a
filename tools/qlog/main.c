/*
 * main.c: qlog, which looks at stores and logs without a server. One table of commands makes the
 * dispatch and the help.
 */
#include <string.h>
#include <sys/resource.h>

#include <qbase/text.h>

#include "command.h"
#include "messages.h"

#define WHAT_DIR                                                                                   \
    "DIR is a store (such as DATA/broker), a node's data directory, or a log of a program's\n"     \
    "own. A directory in use is read up to its durable mark."
#define WHAT_STORE "DIR is a store (such as DATA/broker) or a node's data directory.\n"

static const struct command commands[] = {
    { "info", "DIR", "identity, logs, marks and files of a directory", WHAT_DIR,
      "qlog info qmq-data", info_run, true },
    { "ls", "DIR", "subjects and groups with their counts; or all files",
      WHAT_STORE "Subjects: sequences and messages that are stored. Groups: what waits for them, "
                 "what they\nhave in hand, and what came back. Counts of waiting messages include "
                 "those that a group's\ntag filter will pass over.",
      "qlog ls qmq-data --files", ls_run, true },
    { "dump", "DIR", "print the records of a log, one per line", WHAT_DIR,
      "qlog dump qmq-data --log action -o json", dump_run, false },
    { "cat", "DIR SUBJECT", "print the bodies of a subject's messages, one per line",
      WHAT_STORE MESSAGES_HELP, "qlog cat qmq-data orders --since -1h -t paid", cat_run, false },
    { "grep", "DIR PATTERN", "find messages whose body, properties, keys or id match",
      WHAT_STORE "PATTERN is an extended regular expression (POSIX), or with -F a fixed string.\n"
                 "Exit code 3 when nothing matches.\n" MESSAGES_HELP,
      "qlog grep qmq-data 'invoice-(17|18)' -s orders --in body,key", grep_run, false },
    { "stat", "DIR", "counts, rates and space of all subjects",
      WHAT_STORE
      "Space is what the message log takes: bodies, envelopes, frame headers, padding.\n"
      "Told from index files; with --deep the log is read, and sizes of messages and how\n"
      "full frames are is told, too.",
      "qlog stat qmq-data -o json", stat_run, false },
    { "verify", "DIR", "check all logs of a directory, and one against the other; writes nothing",
      WHAT_DIR
      "\n"
      "Headers, chains and records are always checked; payloads above the durable mark, or "
      "all.\nA store's logs are held against each other: actions speak of messages that "
      "are or were there.",
      "qlog verify qmq-data --deep --jobs 4", verify_run, true },
    { "repair", "DIR", "what can be mended of a stopped directory; keeps whatever it takes away",
      "DIR is a store, a node's data directory, or a log of a program's own. Without --apply it\n"
      "only says what it would do. It sets aside files that hinder a start or belong to nothing,\n"
      "saves a torn tail or a damaged superblock, and then recovers as a start does.",
      "qlog repair qmq-data --apply", repair_run, true },
    { "track", "DIR MESSAGE", "one message: where it lies, and what happened to it, oldest first",
      WHAT_STORE
      "MESSAGE is an id, or SUBJECT@SEQUENCE. What happened is what the action log still "
      "has.",
      "qlog track qmq-data orders@1047", track_run, false },
    { "index", "DIR", "how much of each message segment is in an index file",
      WHAT_STORE
      "Every page of every file is checked. A start reads what no file has, and makes "
      "missing and\ndamaged files again: to have one made anew, stop the node and remove it. "
      "`verify --deep`\nholds files against their segments.",
      "qlog index qmq-data -o json", index_run, false },
    { "gc", "DIR", "which segments retention may drop, and what holds the others",
      WHAT_DIR "\nOnly whole segments go, from the head of a log. With both AGE and SIZE, either "
               "is enough.\nIt changes nothing unless --apply is given. What subjects and groups "
               "know is kept.",
      "qlog gc qmq-data --older-than 7d --consumed", gc_run, false },
};

enum {
    COMMAND_COUNT = sizeof(commands) / sizeof(commands[0])
};

static enum tool_exit run(int argc, char **argv);
static const struct command *find(const char *name);
static enum tool_exit unknown(const char *word);
static void print_overview(FILE *out);

int
main(int argc, char **argv)
{
    /* Each segment is a file: a large store has more than the 1024 that a shell allows at first. */
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    enum tool_exit code = run(argc, argv);
    /* Data that did not reach its reader is a failure, not a short success. */
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    (void)fprintf(stderr, "qlog: cannot write to stdout\n");
    return TOOL_EXIT_FAILED;
}

static enum tool_exit
run(int argc, char **argv)
{
    if (argc < 2) {
        print_overview(stderr);
        return TOOL_EXIT_USAGE;
    }
    const struct command *command = find(argv[1]);
    if (command != NULL) return command->run(command, argc - 1, argv + 1);
    bool help = strcmp(argv[1], "help") == 0;
    if (help && argc > 2) {
        command = find(argv[2]);
        if (command == NULL) return unknown(argv[2]);
        char *arguments[] = { argv[2], (char *)"--help", NULL };
        return command->run(command, 2, arguments);
    }
    if (help || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_overview(stdout);
        return TOOL_EXIT_OK;
    }
    if (strcmp(argv[1], "version") == 0 || strcmp(argv[1], "--version") == 0) {
        (void)printf("qlog %s\n", QLOG_VERSION);
        return TOOL_EXIT_OK;
    }
    return unknown(argv[1]);
}

static const struct command *
find(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static enum tool_exit
unknown(const char *word)
{
    const char *names[COMMAND_COUNT];
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        names[i] = commands[i].name;
    const char *near = q_text_nearest(word, names, COMMAND_COUNT);
    (void)fprintf(stderr, "qlog: there is no command \"%s\"\n", word);
    if (near != NULL) (void)fprintf(stderr, "  did you mean: qlog %s\n", near);
    (void)fprintf(stderr, "  try: qlog help\n");
    return TOOL_EXIT_USAGE;
}

static void
print_overview(FILE *out)
{
    (void)fprintf(
        out,
        "qlog %s: look at stores and logs, without a server\n\n"
        "usage: qlog COMMAND DIR [ARGUMENTS] [OPTIONS]\n\n",
        QLOG_VERSION);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        (void)fprintf(out, "  %-8s  %s\n", commands[i].name, commands[i].what);
    (void)fprintf(out, "\nqlog COMMAND --help tells more.\n\nexit codes:\n");
#define EXIT_LINE(name, code, meaning) (void)fprintf(out, "  %3d  %s\n", code, meaning);
    TOOL_EXIT_LIST(EXIT_LINE)
#undef EXIT_LINE
}
