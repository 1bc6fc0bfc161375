# Completion of borg-serve for fish. Install as /usr/share/fish/vendor_completions.d/borg-serve.fish.

function __borg_serve_is_authorize
    set -l words (commandline -opc)
    test "$words[2]" = authorize
end

function __borg_serve_is_listen
    set -l words (commandline -opc)
    test "$words[2]" = listen
end

set -l serving 'not __borg_serve_is_authorize; and not __borg_serve_is_listen'
set -l notlistening 'not __borg_serve_is_listen'
set -l modes "all\t'everything' no-delete\t'read and add; delete and overwrite nothing' write-only\t'add; read no archives' read-only\t'read only'"

complete -c borg-serve -f
complete -c borg-serve -n '__fish_is_nth_token 1' -a authorize -d 'print a line for authorized_keys'
complete -c borg-serve -n '__fish_is_nth_token 1' -a listen -d 'serve over the network'
complete -c borg-serve -n "$serving; and not __fish_seen_subcommand_from serve" -a serve -d 'serve clients'

complete -c borg-serve -n "$notlistening" -l restrict-to-path -x -a '(__fish_complete_directories)' -d 'admit repositories at or below a path'
complete -c borg-serve -n "$notlistening" -l restrict-to-repository -x -a '(__fish_complete_directories)' -d 'admit the repository at a path only'
complete -c borg-serve -n "$notlistening" -l permissions -x -a $modes -d 'what sessions may do'
complete -c borg-serve -s h -l help -d 'print a summary'

complete -c borg-serve -n __borg_serve_is_authorize -F
complete -c borg-serve -n __borg_serve_is_authorize -l program -r -F -d 'path of the server'
complete -c borg-serve -n __borg_serve_is_authorize -l unrestricted -d 'admit every repository of the account'

complete -c borg-serve -n "$serving" -l append-only -d 'Borg 1.x: repositories only grow'
complete -c borg-serve -n "$serving" -l storage-quota -x -d 'bytes that a repository may hold'
complete -c borg-serve -n "$serving" -l socket -F -d 'serve on a unix socket'
complete -c borg-serve -n "$serving" -l max-connections -x -d 'clients served at a time'
complete -c borg-serve -n "$serving" -l idle-timeout -x -d 'end silent connections after this time'
complete -c borg-serve -n "$serving" -l umask -x -d 'octal mask for new directories'
complete -c borg-serve -n "$serving" -l rest -d 'speak HTTP'
complete -c borg-serve -n "$serving" -l backend -x -d 'the repository for --rest'
complete -c borg-serve -n "$serving" -l critical -d 'report critical errors only'
complete -c borg-serve -n "$serving" -l error -d 'report errors'
complete -c borg-serve -n "$serving" -l warning -d 'report warnings, too'
complete -c borg-serve -n "$serving" -s v -l verbose -l info -d 'report progress, too'
complete -c borg-serve -n "$serving" -l debug -d 'report everything'
complete -c borg-serve -n "$serving" -l debug-topic -x -d 'report everything about a topic'
complete -c borg-serve -n "$serving" -l show-version -d 'report the version'
complete -c borg-serve -n "$serving" -l lock-wait -x -d 'accepted; a client says itself how long it waits'
complete -c borg-serve -n "$serving; and not __fish_seen_subcommand_from serve" -s V -l version -d 'print the version'

complete -c borg-serve -n __borg_serve_is_listen -s c -l config -r -F -d 'the configuration'
complete -c borg-serve -n __borg_serve_is_listen -l check-config -r -F -d 'check the configuration and exit'
complete -c borg-serve -n __borg_serve_is_listen -l root -x -a '(__fish_complete_directories)' -d 'where repositories are'
complete -c borg-serve -n __borg_serve_is_listen -l address -x -d 'listen on HOST:PORT'
complete -c borg-serve -n __borg_serve_is_listen -l socket -r -F -d 'listen on a unix socket'
complete -c borg-serve -n __borg_serve_is_listen -l credentials -r -F -d 'users and hashes of their passwords'
complete -c borg-serve -n __borg_serve_is_listen -s V -l version -d 'print the version'
