# Runs postgres ("$@") and looks after it, so that neither the server nor its files outlive a test process that was killed.
#
# Standard input is a pipe whose other end the test process holds. A line in it stops the server. When it ends without one the process is
# gone, and the server's folder $FOLDER goes too. SIGINT is PostgreSQL's fast shutdown.
exec 3<&0
"$@" 3<&- </dev/null &
postgres=$!
{
	if read -r word <&3; then
		kill -INT $postgres
	else
		kill -INT $postgres
		while kill -0 $postgres; do sleep 0.05; done
		rm -rf "$FOLDER"
	fi
} >/dev/null 2>&1 &
# A signal to the whole group, such as a terminal's, is for postgres. Here it would end the wait.
trap '' INT TERM HUP
wait $postgres
