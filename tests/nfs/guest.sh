#!/bin/bash
# Inside the machine that tests/nfs-long.sh starts: a server, two clients, and what they do together.
#   guest.sh PROGRAM VERSION [SCENARIO…]
set -u
cp "$1" /usr/local/bin/twdag
version=$2
shift 2
failed=0
row() { # ok, note or FAIL, what was tried, what came out
  local mark=$1 tried=$2
  shift 2
  [ "$mark" != FAIL ] || failed=1
  printf '| %-4s | %-3s | %-36s | %s\n' "$mark" "$version" "$tried" "$(printf '%s' "$*" | tr '\n' ' ' | cut -c1-400)"
}
expect() { # a condition for eval, what was tried, what came out
  local condition=$1
  shift
  if eval "$condition"; then row ok "$@"; else row FAIL "$@"; fi
}
milliseconds() { echo $((($(date +%s%N) - $1) / 1000000)); }
now() { date +%s%N; }

# The server, in the machine's own network: an ext4 of 400 MB.
serve() {
  for module in nfsd nfsv3 nfsv4 loop ext4 veth bridge; do modprobe $module || echo "no module $module"; done
  grep -q ^_rpc: /etc/passwd || echo '_rpc:x:990:65534::/run/rpcbind:/usr/sbin/nologin' >> /etc/passwd
  grep -q ^statd: /etc/passwd || echo 'statd:x:991:65534::/var/lib/nfs:/usr/sbin/nologin' >> /etc/passwd
  # `sm-notify` asks for names.
  printf '10.9.0.%s\n' '1 server' '2 client-a' '3 client-b' >> /etc/hosts
  hostname server
  ip link set lo up
  ip link add br0 type bridge
  ip addr add 10.9.0.1/24 dev br0
  ip link set br0 up
  mkdir -p /disk /export /run/rpcbind
  mount -t tmpfs tmpfs /disk
  truncate -s 400M /disk/ext4
  mke2fs -q -F -m 0 -t ext4 /disk/ext4
  mount -o loop /disk/ext4 /export
  chmod 777 /export
  mount -t tmpfs tmpfs /var/lib/nfs
  mkdir -p /var/lib/nfs/{sm,sm.bak,v4recovery,rpc_pipefs,nfsdcld}
  touch /var/lib/nfs/{etab,rmtab,state}
  rpcbind -w
  rpc.statd --no-notify
  mount -t nfsd nfsd /proc/fs/nfsd
  # Nobody has locks to get back when it starts.
  echo 10 > /proc/fs/nfsd/nfsv4gracetime
  echo 10 > /proc/sys/fs/nfs/nlm_grace_period
  nfsdcld
  echo '/export 10.9.0.0/24(rw,sync,no_root_squash,no_subtree_check,fsid=0)' > /etc/exports
  exportfs -ra
  rpc.mountd
  rpc.nfsd 8
  echo Y > /proc/fs/nfsd/v4_end_grace
}

# A client NAME with the address 10.9.0.NUMBER.
client() {
  unshare --net --uts --mount --pid --fork --mount-proc --propagation private sh -c 'exec sleep infinity' &
  local outer=$! pid
  until pid=$(pgrep -P $outer -x sleep); do sleep 0.05; done
  eval "inside_$1=$pid"
  ip link add "to-$1" type veth peer name eth0 netns "$pid"
  ip link set "to-$1" master br0 up
  on "$1" sh -c "hostname client-$1; ip link set lo up; ip addr add 10.9.0.$2/24 dev eth0; ip link set eth0 up
    mount -t tmpfs tmpfs /run; mkdir -p /run/rpcbind /team; mount -t tmpfs tmpfs /tmp
    mount -t tmpfs tmpfs /var/lib/nfs; mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak; touch /var/lib/nfs/state
    rpcbind -w; rpc.statd --no-notify"
}
on() { # CLIENT COMMAND…
  local inside=inside_$1
  shift
  nsenter -t "${!inside}" --net --uts --mount --pid --wd=/ -- "$@"
}
mount_on() { # CLIENT VERSION [OPTION]
  local path=/
  [ "$2" != 3 ] || path=/export
  on "$1" mount -t nfs -o "vers=$2,hard${3:+,$3}" "10.9.0.1:$path" /team
}
twdag() { # CLIENT ARGUMENT…
  local client=$1
  shift
  on "$client" env -C /team HOME=/root /usr/local/bin/twdag "$@"
}

# A fresh workspace with a graph of stages that each leave a file in count/ when they are computed.
place() { # STAGES
  rm -rf /export/* /export/.[a-z]*
  mkdir /export/count
  echo 'Workspace(version: 1)' > /export/twdag.ron
  echo text > /export/text
  {
    echo 'Graph(version: 1, stages: {'
    for number in $(seq "$1"); do
      echo "\"s$number\": Command(run: [\"sh\", \"-c\", \"mktemp /team/count/s$number.XXXXXX && cat \$0 > \$1/out && echo $number >> \$1/out\", \"{file.0}\", \"{out}\"], files: [\"text\"]),"
    done
    echo '})'
  } > /export/graph.ron
}
graph() { # lines of stages on standard input
  { echo 'Graph(version: 1, stages: {'; cat; echo '})'; } > /export/graph.ron
}
counts() { ls /export/count | sed 's/\..*//' | sort | uniq -c | awk '{print $1}' | sort | uniq -c | awk '{printf "%s stages computed %s times; ", $1, $2}'; }
messages() { grep -h -o '"event":"\(stage-failed\|stage-warning\|run-warning\|store-damaged\)".*"message":"[^"]*"' "$@" | cut -c1-300; }
owners() { cat "$@" | grep -o '"owner":"[^"]*"' | sed 's/in process [0-9]*/…/' | sort | uniq -c | tr -s ' '; }
in_background() { # CLIENT ARGUMENT… ; its number is in $!
  local client=$1
  shift
  twdag "$client" "$@" --json > "/tmp/$client.json" 2> "/tmp/$client.err" &
}
at_once() { # runs of both clients; sets one, other
  in_background a run graph.ron --jobs 2
  local first=$!
  in_background b run graph.ron --jobs 2
  local second=$!
  "$@"
  wait $first; one=$?
  wait $second; other=$?
}
check() {
  twdag b store check > /tmp/check 2>&1
  expect "[ $? = 0 ]" "store check after that" "$(tail -n 1 /tmp/check)"
}

concurrent() {
  place 30
  local began=$(now)
  at_once true
  local waits=$(owners /tmp/a.json /tmp/b.json)
  expect '[ "$one $other $(counts)" = "0 0 30 stages computed 1 times; " ] && [[ -z $waits || $waits == *client-* ]]' \
    "two clients, one graph" "exit codes $one $other after $(milliseconds $began) ms; $(counts)waited for: $waits $(messages /tmp/?.json)"
  check
}
# What was not there a moment ago.
noticing() {
  place 8
  twdag b plan graph.ron > /dev/null
  twdag b run graph.ron s1 > /dev/null
  twdag a run graph.ron > /dev/null
  twdag b run graph.ron > /dev/null
  expect '[ "$(counts)" = "8 stages computed 1 times; " ]' "plan here, run there, run here" "$(counts)"
}
edits() {
  place 1
  for client in a b; do twdag $client run graph.ron > /dev/null; done
  local stale='' count=0 time='t=$(stat -c %y /team/text)' back='touch -d "$t" /team/text'
  edit() { # CLIENT COMMAND: it writes WORD; then the other client runs the graph at once
    local client=$1 other=a word=word$((++count)) found
    [ "$client" = b ] || other=b
    on "$client" sh -c "${2//WORD/$word}"
    twdag $other run graph.ron > /tmp/out 2>&1 || cat /tmp/out
    found=$(on $other head -n 1 "$(twdag $other path graph.ron s1)/out")
    [ "$found" = "$word" ] || stale="$stale, $3 ($found instead of $word)"
  }
  for round in 1 2 3; do
    edit a 'echo WORD > /team/text' "written"
    edit b 'echo WORD > /team/new; mv /team/new /team/text' "replaced"
    edit a "ln /team/text /team/kept$round; echo WORD > /team/new; mv /team/new /team/text" "replaced and the old one kept"
    edit b "$time; echo WORD > /team/text; $back" "same size and time"
    # Until a kept plan tells that everything is cached.
    sleep 2
    for client in a b b; do twdag $client run graph.ron > /dev/null; done
    edit a "$time; echo WORD > /team/text; $back" "same size and time, after a kept plan"
    edit b "sed 's/s1/s1/; s/echo [0-9]*/echo $round$round/' /team/graph.ron > /team/new; mv /team/graph.ron /team/graph.ron~; mv /team/new /team/graph.ron; echo WORD > /team/text" "graph replaced"
  done
  expect '[ -z "$stale" ]' "edits made on the other client" "$count edits; not seen: ${stale:-none}"
}
collecting() {
  place 1
  graph <<'G'
"one": Command(run: ["sh", "-c", "cp $0 $1/out", "{file.0}", "{out}"], files: ["text"]),
"two": Command(run: ["sh", "-c", "touch /team/count/two; until [ -e /tmp/go ]; do sleep 0.1; done; cp $0/out $1/out", "{in.one}", "{out}"], inputs: {"one": "one"}),
"three": Command(run: ["sh", "-c", "cat $0/out $2/out > $1/out", "{in.one}", "{out}", "{in.two}"], inputs: {"one": "one", "two": "two"}),
G
  on a rm -f /tmp/go
  in_background a run graph.ron
  local run=$! began code
  until [ -e /export/count/two ]; do sleep 0.2; done
  began=$(now)
  twdag b store gc --keep-runs 0 --older-than 0s > /tmp/gc 2>&1
  code=$?
  local took=$(milliseconds $began)
  on a touch /tmp/go
  wait $run
  expect "[ '$code $?' = '0 0' ]" "gc there while a stage runs here" "gc ended with $code after $took ms; $(tail -n 1 /tmp/gc) $(messages /tmp/a.json)"
  place 30
  in_background a run graph.ron
  run=$!
  local count=0 bad=0
  until [ -d /export/artifacts/actions ] && [ -e /export/artifacts/local/lock ]; do sleep 0.2; done
  while kill -0 $run 2> /dev/null; do
    twdag b store gc --keep-runs 0 --older-than 0s > /tmp/gc 2>&1 || { bad=$((bad + 1)); tail -n 1 /tmp/gc; }
    count=$((count + 1))
  done
  wait $run
  expect "[ '$bad $?' = '0 0' ]" "gc there again and again" "$count times, of which $bad failed; $(counts)$(messages /tmp/a.json)"
  twdag a run graph.ron > /dev/null 2>&1
  twdag b store gc --keep-runs 0 --older-than 0s > /dev/null 2>&1
  local left=$(cd /export/artifacts && find objects trees actions local/claims local/leases local/scratch -type f | wc -l)
  expect "[ $left = 0 ]" "gc when nothing runs" "$left files left"
}
# Both run the graph; client a is at its stage `long`, for which client b waits.
a_before_b() {
  in_background a run graph.ron
  here=$!
  until ls /export/count | grep -q long.client-a; do sleep 0.2; done
  in_background b run graph.ron
  there=$!
  until grep -q stage-waiting /tmp/b.json || ! kill -0 $there 2> /dev/null; do sleep 0.2; done
}
# One stage that hangs on client a alone.
hanging() {
  place 1
  on a rm -f /tmp/go
  graph <<'G'
"first": Command(run: ["sh", "-c", "cp $0 $1/out", "{file.0}", "{out}"], files: ["text"]),
"long": Command(run: ["sh", "-c", "mktemp /team/count/long.$(hostname).XXXXXX; if [ $(hostname) = client-a ]; then echo half > $1/half; (exec sleep 87654) & until [ -e /tmp/go ]; do sleep 0.2; done; fi; cp $0/out $1/out", "{in.first}", "{out}"], inputs: {"first": "first"}),
G
  a_before_b
}
killed() {
  hanging
  local began=$(now)
  on a pkill -9 -x twdag
  wait $there
  local code=$?
  expect "[ $code = 0 ] && owners /tmp/b.json | grep -q client-a" "kill -9 of run and worker" "the other one waited for$(owners /tmp/b.json), and ended with $code, $(milliseconds $began) ms after the kill"
  local patience=100
  while on a pgrep -f 'sleep 87654' > /dev/null && [ $((patience -= 1)) -gt 0 ]; do sleep 0.1; done
  expect '[ -z "$(on a pgrep -f "sleep 87654")" ]' "programs of the killed run" "$(on a pgrep -f 'sleep 87654' | wc -l) left"
  check
}
# A client goes as a machine does: nobody hears of it any more.
vanished() {
  hanging
  ip link set to-a down
  local began=$(now) patience=150
  while kill -0 $there 2> /dev/null && [ $((patience -= 1)) -gt 0 ]; do sleep 1; done
  if [ "$version" = 3 ]; then
    row note "a client vanishes" "the other one waits for$(owners /tmp/b.json), still after $(milliseconds $began) ms"
    ip link set to-a up
    began=$(now)
    starts_anew
    patience=100
    while kill -0 $there 2> /dev/null && [ $((patience -= 1)) -gt 0 ]; do sleep 1; done
    expect "! kill -0 $there 2> /dev/null" "that client says that it has started anew" "the other one went on after $(milliseconds $began) ms"
  else
    expect "! kill -0 $there 2> /dev/null" "a client vanishes" "the other one waited for$(owners /tmp/b.json), and went on after $(milliseconds $began) ms"
    ip link set to-a up
  fi
  on a touch /tmp/go
  patience=100
  while kill -0 $here 2> /dev/null && [ $((patience -= 1)) -gt 0 ]; do sleep 1; done
  if kill -0 $here 2> /dev/null; then row FAIL "the lost run, when it is back" "hangs"; on a pkill -9 -x twdag; fi
  wait $here
  expect "[ $? = 0 ]" "the lost run, when it is back" "$(tail -n 1 /tmp/a.json | grep -o '"outcome":"[^"]*"') $(messages /tmp/a.json)"
  kill $there 2> /dev/null
  wait $there
  twdag b run graph.ron > /tmp/out 2>&1
  expect "[ $? = 0 ]" "a run after that" "$(tail -n 1 /tmp/out)"
  check
}
# Client a says that it has started anew. `sm-notify` forgets whom it has told: a machine that has really started anew learns it again with its next
# lock, and here a copy brings it back.
starts_anew() {
  on a sh -c 'rm -rf /tmp/sm; cp -a /var/lib/nfs/sm /tmp/sm; sm-notify -f -v 10.9.0.2
    timeout 20 sh -c "until [ -z \"\$(ls -A /var/lib/nfs/sm.bak)\" ]; do sleep 0.2; done"
    cp -a /tmp/sm/. /var/lib/nfs/sm/'
}
# Client a is cut off from its locks while it computes a stage, which the other one then takes over. The stages wait for a file of each client.
overtaken_at() { # the stage that the other one is at when client a comes back
  place 1
  graph <<'G'
"first": Command(run: ["sh", "-c", "cp $0 $1/out", "{file.0}", "{out}"], files: ["text"]),
"long": Command(run: ["sh", "-c", "echo half > $1/half; mktemp /team/count/long.$(hostname).XXXXXX; until [ -e /tmp/long ]; do sleep 0.2; done; echo junk > junk; rm $1/half; hostname > $1/out", "{in.first}", "{out}"], inputs: {"first": "first"}),
"next": Command(run: ["sh", "-c", "mktemp /team/count/next.$(hostname).XXXXXX; until [ -e /tmp/next ]; do sleep 0.2; done; ls -A > $1/names; cat $0/out > $1/out", "{in.long}", "{out}"], inputs: {"long": "long"}),
G
  for client in a b; do on $client rm -f /tmp/long /tmp/next; done
  a_before_b
  for name in twdag sh; do on a pkill -STOP -x $name; done
  if [ "$version" = 3 ]; then
    starts_anew
  else
    local client
    for client in /proc/fs/nfsd/clients/*; do ! grep -q '"10.9.0.2:' $client/info || echo expire > $client/ctl; done
  fi
  [ "$1" = long ] || on b touch /tmp/long
  patiently "ls /export/count | grep -q $1.client-b" "client b goes on to $1"
}
patiently() { # a condition, what it is
  local left=300
  until eval "$1"; do
    if [ $((left -= 1)) = 0 ]; then row FAIL "$2" "not after two minutes"; return 1; fi
    sleep 0.4
  done
}
# `nsenter` stops with the program that it has started.
back() { for name in sh twdag; do on a pkill -CONT -x $name; done; pkill -CONT -x nsenter; }
both_end() { # what was tried
  on b touch /tmp/next
  patiently "! kill -0 $here 2> /dev/null && ! kill -0 $there 2> /dev/null" "both runs end" || on a pkill -9 -x twdag
  wait $here; one=$?
  wait $there; other=$?
  local out=$(on a cat "$(twdag a path graph.ron long)/out") names=$(on a cat "$(twdag a path graph.ron next)/names")
  local became=$(tail -n 1 /tmp/a.json | grep -o '"name":"[^"]*","outcome":"[^"]*"' | sed 's/"name":"\([^"]*\)","outcome":"\([^"]*\)"/\1 \2/')
  expect '[ "$one $other $out $names" = "0 0 client-b " ] && [[ $became == *"long cached"* ]] && [ "$(ls /export/count | grep -c next)" = 1 ]' "$1" \
    "exit codes $one $other; here: $became; the result is of: $out; strange files beside the next stage: ${names:-none}; $(messages /tmp/?.json)"
  expect '[ -z "$(ls -A /export/artifacts/local/scratch)" ]' "work folders after that" "$(ls -A /export/artifacts/local/scratch | wc -l) left"
  check
}
overtaken() {
  overtaken_at long
  local folders=$(ls -d /export/artifacts/local/scratch/*/output* | wc -l)
  expect '[ $folders = 1 ]' "the stage of a run that was cut off" "the other one is at it, and has left $((folders - 1)) output folders of the first one"
  on a touch /tmp/long
  back
  patiently 'grep -q "stage-waiting.*client-b" /tmp/a.json || ! kill -0 $here 2> /dev/null' "the first one waits"
  on b touch /tmp/long
  both_end "back while the other is at it"
  overtaken_at next
  twdag b store gc --keep-runs 0 --older-than 0s > /tmp/gc 2>&1
  expect "[ $? = 0 ]" "gc there before it is back" "$(tail -n 1 /tmp/gc)"
  on a touch /tmp/long /tmp/next
  back
  patiently 'grep -q "stage-waiting.*client-b" /tmp/a.json || ! kill -0 $here 2> /dev/null' "the first one waits"
  both_end "back when the other has recorded"
}
removed() {
  place 1
  graph <<'G'
"holds": Command(run: ["sh", "-c", "exec 3> $1/gone; echo x >&3; rm $1/gone; (sleep 87654) & cp $0 $1/out", "{file.0}", "{out}"], files: ["text"]),
"reads": Command(run: ["sh", "-c", "ls -A $0 > $1/names", "{in.holds}", "{out}"], inputs: {"holds": "holds"}),
G
  in_background a run graph.ron
  wait $!
  local names=$(on a cat "$(twdag a path graph.ron reads)/names")
  expect '[ "$names" = out ]' "output that is removed and still open" "the result holds: $names $(messages /tmp/a.json)"
  graph <<< '"folder": Download(from: Folder(path: "source")),'
  mkdir /export/source
  echo one > /export/source/one
  twdag a run graph.ron > /dev/null
  on a sh -c 'exec 3> /team/source/gone; rm /team/source/gone; exec sleep 87654' &
  until ls -A /export/source | grep -q nfs; do sleep 0.1; done
  in_background a run graph.ron
  wait $!
  expect "tail -n 1 /tmp/a.json | grep -q cached" "source with a removed open file" "$(ls -A /export/source) $(messages /tmp/a.json)"
  on a sh -c "exec 4< $(twdag a path graph.ron folder)/one; touch /tmp/reads; exec sleep 87654" &
  until on a test -e /tmp/reads; do sleep 0.1; done
  twdag a store gc --keep-runs 0 --older-than 0s > /tmp/gc 2>&1
  expect "[ $? = 0 ]" "gc of a result that is open" "$(tail -n 1 /tmp/gc); left: $(ls -A /export/artifacts/local/views)"
  on a pkill -f 'sleep 87654'
  twdag a run graph.ron > /tmp/out 2>&1
  expect "[ $? = 0 ]" "a run after that" "$(tail -n 1 /tmp/out)"
  check
}
outage() {
  place 20
  unplug() { sleep 1.5; ip link set to-a down; sleep 12; ip link set to-a up; }
  at_once unplug
  expect '[ "$one $other $(counts)" = "0 0 20 stages computed 1 times; " ]' "no network for 12 s" "exit codes $one $other; $(counts)$(messages /tmp/?.json)"
}
restart() {
  place 20
  # The list of clients with locks of version 3 stays where a whole machine starts anew; one that only ends its server forgets them.
  again() {
    sleep 1.5
    cp -a /var/lib/nfs/sm /tmp/sm
    rpc.nfsd 0
    sleep 1
    cp -a /tmp/sm/. /var/lib/nfs/sm/
    rm -r /tmp/sm
    rpc.nfsd 8
    sm-notify -f
  }
  at_once again
  expect '[ "$one $other $(counts)" = "0 0 20 stages computed 1 times; " ]' "the server starts anew" "exit codes $one $other; $(counts)$(messages /tmp/?.json)"
  check
  place 20
  untold() { sleep 1.5; rpc.nfsd 0; sleep 1; rpc.nfsd 8; }
  at_once untold
  local tried="the server starts anew and tells nobody"
  if [ "$version" = 4.2 ]; then
    expect '[ "$one $other $(counts)" = "0 0 20 stages computed 1 times; " ]' "$tried" "exit codes $one $other; $(counts)$(messages /tmp/?.json)"
  else
    # Locks of version 3 are lost then.
    expect '[ "$one $other $(ls /export/count | cut -d . -f 1 | sort -u | wc -l)" = "0 0 20" ]' "$tried" "exit codes $one $other; $(counts)$(messages /tmp/?.json)"
  fi
  check
}
isolated() {
  # Files can be kept from being cut since 6.2.
  if ! printf '6.2\n%s\n' "$(uname -r)" | sort -CV; then row note "--isolation enforce" "Linux $(uname -r) cannot"; return; fi
  place 1
  graph <<'G'
"good": Command(run: ["sh", "-c", "cp $0 $1/out", "{file.0}", "{out}"], files: ["text"]),
"bad": Command(run: ["sh", "-c", "cp $0 $1/out; cat /team/secret >> $1/out", "{file.0}", "{out}"], files: ["text"]),
G
  echo secret > /export/secret
  in_background a run graph.ron good --isolation enforce
  wait $!
  local good=$?
  in_background b run graph.ron bad --isolation enforce
  wait $!
  expect "[ '$good $?' = '0 1' ] && grep -q secret /tmp/b.json" "--isolation enforce" "$(messages /tmp/?.json)"
}
# Servers refuse when a file is closed, which programs do not always heed.
full() {
  place 1
  graph <<'G'
"careless": Command(run: ["perl", "-e", "open F, '>', $ARGV[0].'/out'; print F 'x' x 30000000; close F; unlink '/team/filler'; exit 0", "{out}"]),
G
  dd if=/dev/zero of=/export/filler bs=1M count=$(($(df --output=avail -k /export | tail -n 1) / 1024 - 20)) 2> /dev/null
  sync
  in_background a run graph.ron
  wait $!
  expect "[ $? = 1 ]" "no room, which the program ignores" "$(messages /tmp/a.json)"
  in_background a run graph.ron
  wait $!
  local code=$? size=$(on a stat -c %s "$(twdag a path graph.ron careless)/out")
  expect "[ '$code $size' = '0 30000000' ]" "again, with room" "$size bytes"
}
unlocked() {
  if [ "$version" != 3 ]; then row note "a mount with locks of its own" "there is none in version 4"; return; fi
  place 6
  for client in a b; do on $client umount -l -f /team; mount_on $client 3 nolock; done
  at_once true
  expect "grep -q nolock /tmp/a.json" "a mount with locks of its own" "$(counts)$(messages /tmp/a.json)"
  for client in a b; do on $client umount -l -f /team; mount_on $client 3; done
}

[ $# -gt 0 ] || set -- concurrent noticing edits collecting killed overtaken removed outage restart isolated full unlocked vanished
serve
client a 2
client b 3
if [ "$version" = mix ]; then
  mount_on a 4.2
  mount_on b 3
else
  for client in a b; do mount_on $client "$version" || exit 1; done
fi
echo "Linux $(uname -r); $(on b grep ' /team ' /proc/mounts)"
for scenario in "$@"; do
  began=$(now)
  $scenario
  echo "  ($scenario: $(milliseconds "$began") ms)"
done
exit $failed
