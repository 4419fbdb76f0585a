/*
 * files.h: the files of a directory, as `info` and `ls --files` print them.
 */
#ifndef QLOG_TOOL_FILES_H
#define QLOG_TOOL_FILES_H

#include "json.h"
#include "look/directory.h"

/* A line for each. */
void print_files(const struct ql_directory *directory);
/* An array "files". */
void print_files_json(struct json *json, const struct ql_directory *directory);
/* Bytes of all of them. */
uint64_t files_bytes(const struct ql_directory *directory);

#endif /* QLOG_TOOL_FILES_H */
