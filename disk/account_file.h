/*
 * account_file: an account in a file, which every process that needs it maps. Room for all of it is set aside when it
 * is made: nobody dies of a full file system later.
 */
#ifndef HIKAE_DISK_ACCOUNT_FILE_H
#define HIKAE_DISK_ACCOUNT_FILE_H

#include "common/errmsg.h"
#include "disk/account.h"

struct account_file;

/* Opens the account at `path`, or makes it. NULL with `e`. */
struct account_file *account_file_open(const char *path, const struct account_disks *d, struct errmsg *e);
void account_file_close(struct account_file *f); /* NULL is allowed */
struct account *account_of(struct account_file *f);

#endif
