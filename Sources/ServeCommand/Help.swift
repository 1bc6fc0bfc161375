/// The text of `--help`, wrapped at 79 columns.
enum Help {
  static let text = """
    Usage: borg-serve [serve] [options]
           borg [options] serve [options]
           borg-serve authorize [options] KEYFILE
           borg-serve listen [options]

    Serves Borg repositories to Borg clients, 1.1 to 1.4 and 2.0.0b16 to b25, over
    standard input and output, as ssh starts it for a client with a repository at
    ssh://... or rest://...
    The client says which repository it wants; --repo and BORG_REPO do nothing.

    authorize prints a line for authorized_keys; see borg-serve authorize --help.
    listen serves over the network; see borg-serve listen --help.

    Access:
      --restrict-to-path PATH
                            Only repositories at PATH or below it. May be given
                            several times.
      --restrict-to-repository PATH
                            Only the repository at PATH itself. May be given
                            several times. PATH, or its last element, may be
                            missing: then a client may create the repository.
                            Where both kinds of restriction are given, both have
                            to admit a repository.
      --permissions MODE    What clients may do; wins over BORG_REPO_PERMISSIONS.
                              all         everything (default)
                              no-delete   read and add; delete and overwrite
                                          nothing
                              write-only  add; read no archives
                              read-only   read only
      --append-only         Borg 1.x repositories: what is in their logs stays, and
                            their key. Repositories of Borg 2 are refused.
      --storage-quota SIZE  bytes that each repository may hold, as in 5G or
                            1.5T; at least 10M, or 0 for none. Wins over the
                            own quota of a Borg 1.x repository.

    Transport:
      --socket[=PATH]       Listen on the unix socket PATH; without PATH on
                            borg.sock in the runtime directory. Or use the sockets
                            that systemd has opened for this process.
      --max-connections N   With --socket: serve at most N clients at a time
                            (default 100). Not to be cut short.
      --idle-timeout SECONDS
                            End a connection on which nothing has happened for so
                            long (default 0: never). Not to be cut short.
      --umask MASK          Octal mask for directories that are created (default
                            0077); files are always for their owner alone.
      --rest                Speak HTTP, for clients of 2.0.0b22 to b25.
      --backend URL         With --rest: the repository, FILE:/srv/repo or
                            file:///srv/repo (escaped). Grants nothing.

    Messages:
      --critical, --error, --warning, --info (-v, --verbose), --debug
                            Least severe level to report (default --warning).
      --debug-topic TOPIC   Report everything about TOPIC, which is short for
                            borg.debug.TOPIC if it has no dot. May be given
                            several times.
      --show-version        Report the version.

    Others:
      -h, --help            Print this help.
      -V, --version         Print the version; before the word serve only.
      --lock-wait SECONDS   Accepted; a client says itself how long it waits for a
                            lock (default 10, or BORG_LOCK_WAIT).

      Accepted without effect, because some version of Borg has them: --repo (-r),
      --progress (-p), --iec, --remote-path, --rsh, --upload-ratelimit,
      --upload-buffer, --remote-ratelimit, --remote-buffer, --debug-profile,
      --consider-part-files, --cockpit, --show-rc, --log-json. Not accepted:
      --bypass-lock, --config.

    Options may stand before or after the word serve; of two values the one after
    it counts. Long options may be cut short where that is unambiguous, and take
    their value as --option VALUE or --option=VALUE.

    Forced commands: where sshd has set SSH_ORIGINAL_COMMAND, the log level, debug
    topics and --lock-wait are those of the client's command, and with --rest its
    --backend. Nothing else in it counts, and what is no borg command is refused.

    Examples, lines of ~/.ssh/authorized_keys:
      A key that can use borg only, and only one directory:
        command="borg serve --restrict-to-path /path/to/repo",restrict ssh-rsa ...
      A key with a variable set for the server:
        command="BORG_XXX=value borg serve [...]",restrict ssh-rsa ...

    Exit codes:
        0  the client has closed the connection, or was idle for too long
        2  usage error, malformed message, or any other error
       83  repository path not allowed, with --rest
       85  a message that is not a request
    128+N  ended by signal N
    After a client of Borg 1.x 85 is 2 unless BORG_EXIT_CODES is modern.
    With BORG_EXIT_CODES set to anything but modern, 83 and 85 become 2.

    """

  /// The text of `authorize --help`.
  static let authorize = """
    Usage: borg-serve authorize [options] KEYFILE

    Prints the line for ~/.ssh/authorized_keys that lets the owner of a public key
    start this server, restricted as given, and do nothing else. KEYFILE is the
    key as ssh-keygen writes it (NAME.pub), - is standard input. Nothing is
    changed: append the line yourself.

    Options:
      --restrict-to-path PATH
                            Only repositories at PATH or below it.
      --restrict-to-repository PATH
                            Only the repository at PATH itself.
                            Both may be given several times, PATH has to be
                            absolute, and one of them is needed, or:
      --unrestricted        Every repository that the Unix user may use.
      --permissions MODE    all, no-delete, write-only or read-only.
      --program PATH        The server's absolute path, if it is not this one.
      -h, --help            Print this help.

    Refused, with the reason: private keys, several lines, options before the key,
    certificates, DSA, RSA below 2048 bits, damaged keys; paths with control
    characters or with the components . and .. in them.

    Example:
      borg-serve authorize --restrict-to-repository /srv/borg/alice/repo \\
        --permissions=no-delete alice.pub >>~/.ssh/authorized_keys

    Exit codes: 0 the line is printed; 2 it is not.

    """
}
